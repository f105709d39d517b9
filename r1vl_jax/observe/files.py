"""Atomic writes to a local directory or a bucket; only the main process writes."""

import json
from typing import Any

from etils import epath

from r1vl_jax.runtime import processes


def atomic_write(path: epath.Path, content: bytes) -> None:
    """Replaces a file by a rename: a reader, or a run that is killed, never sees half of it."""
    if not processes.is_main_process():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / f".{path.name}.unfinished"
    unfinished.write_bytes(content)
    unfinished.replace(path)


def write_json(path: epath.Path, value: Any) -> None:
    """Writes indented JSON with sorted keys: equal values give equal bytes."""
    atomic_write(path, (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())


def read_json(path: epath.Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no file."""
    return json.loads(path.read_text()) if path.exists() else {}
