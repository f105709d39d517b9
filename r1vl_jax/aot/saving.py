"""Compiled programs in files: made where there is no pod, run there without compiling.

A file belongs to the versions of JAX and libtpu that wrote it. It is a pickle: load only files of your own.
"""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable


def save(executable: jax.stages.Compiled, path: Path) -> None:
    """Writes a compiled program; its directory is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(serialize_executable.serialize(executable)))


def load(path: Path, devices: Sequence[Any]) -> Callable[..., Any]:
    """A saved program, to be called with all arguments of its function but the static one.

    Args:
        devices: `jax.Device`s, as many as it was compiled for, in the order of the mesh.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such program; `python -m r1vl_jax.aot --save=DIR` writes them")
    return serialize_executable.deserialize_and_load(*pickle.loads(path.read_bytes()), execution_devices=devices)
