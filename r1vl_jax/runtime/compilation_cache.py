"""What compiling leaves behind: programs, kept on disk for the next start, and memory, which is given back."""

import contextlib
import ctypes
import functools
from typing import Any

import jax
from etils import epath

_MIN_COMPILE_TIME_S = 0.1  # of compilation; JAX's own bound is a second, which most programs of a small run stay below
_TRIM_ABOVE_S = 0.5  # of compilation


def enable_compilation_cache(directory: str) -> None:
    """Keeps what is compiled from now on, unless JAX was told of a cache before.

    Args:
        directory: made where it is missing; where that fails JAX warns and goes on. "" keeps nothing.
    """
    if directory and not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(epath.Path(directory).expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_COMPILE_TIME_S)


@functools.cache
def trim_malloc_after_compile() -> None:
    """From now on, what a compiler has freed goes back to the system when it is done.

    Left alone, the C library keeps it for the threads that compiled: 400 MiB behind a training step on a CPU. Where it
    has no means to give it back (it is not glibc) nothing changes.
    """
    with contextlib.suppress(OSError, AttributeError):
        trim = ctypes.CDLL(None).malloc_trim

        def when_compiled(event: str, duration_secs: float, **_: Any) -> None:
            if event.endswith("/backend_compile_duration") and duration_secs > _TRIM_ABOVE_S:
                trim(0)

        jax.monitoring.register_event_duration_secs_listener(when_compiled)
