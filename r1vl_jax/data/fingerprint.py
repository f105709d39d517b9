"""A digest of a data set's files, computed once and kept beside them."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r1vl_jax.data.splits import FORMAT

_FINGERPRINT_CACHE = "fingerprint.json"


def fingerprint(directory: str | os.PathLike) -> str:
    """SHA-256 digest of the record files of a data set, by name and content.

    The digest is cached in the directory, together with the name, size and modification time of each file, and is
    computed again when one of these differs. A read-only directory works without the cache.

    Raises:
        FileNotFoundError: there are no record files in this directory.
    """
    files = sorted(Path(directory).glob(f"*{FORMAT}*"))
    if not files:
        raise FileNotFoundError(f"{directory}: no record files here (expected *{FORMAT}*)")
    return hash_files({path.name: path for path in files}, Path(directory) / _FINGERPRINT_CACHE)


def combined_fingerprint(directories: Sequence[str | os.PathLike]) -> str:
    """The digest of one data set, or of several together.

    Raises:
        FileNotFoundError: as `fingerprint`.
    """
    digests = [fingerprint(directory) for directory in directories]
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def hash_files(files: Mapping[str, Path], cache: Path) -> str:
    """SHA-256 digest of files by name and content.

    Args:
        files: by the name that counts.
        cache: a file that keeps the digest; it is computed again when a name, size or modification time differs.
    """
    stats = [[name, (stat := path.stat()).st_size, stat.st_mtime_ns] for name, path in files.items()]
    cached = _read_cache(cache)
    if cached.get("files") == stats and isinstance(cached.get("sha256"), str):
        return cached["sha256"]
    digest = hashlib.sha256()
    for name, path in files.items():
        with path.open("rb") as file:
            digest.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
    _write_cache(cache, {"files": stats, "sha256": digest.hexdigest()})
    return digest.hexdigest()


def _read_cache(path: Path) -> dict[str, Any]:
    """The cached fingerprint; empty if there is none or it is unreadable."""
    try:
        cached = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return cached if isinstance(cached, dict) else {}


def _write_cache(path: Path, content: Mapping[str, Any]) -> None:
    """Writes the cache in one move, since several processes may do so at once; not at all if the directory forbids."""
    unfinished = path.with_name(f".{path.name}-unfinished-{os.getpid()}")
    with contextlib.suppress(OSError):
        unfinished.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        unfinished.replace(path)
