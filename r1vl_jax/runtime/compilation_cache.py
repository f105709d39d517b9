"""What compilation leaves behind: programs, cached on disk for the next start, and freed memory, returned to the OS."""

import contextlib
import ctypes
import functools
from typing import Any

import jax
from etils import epath

_MIN_COMPILE_TIME_S = 0.1  # JAX's default of 1 s would leave out most programs of a small run
_TRIM_MIN_COMPILE_TIME_S = 0.5


def enable_compilation_cache(directory: str) -> None:
    """Caches the programs compiled from now on, unless JAX is configured with a cache already.

    Args:
        directory: created if missing; where that fails JAX warns and goes on without. "" disables the cache.
    """
    if directory and not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(epath.Path(directory).expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_COMPILE_TIME_S)


@functools.cache
def trim_malloc_after_compile() -> None:
    """From now on, returns the memory that the compiler freed to the operating system after each compilation.

    By default glibc keeps it in the arenas of the threads that compiled: 400 MiB after a training step on CPU. With
    another C library this does nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        trim = ctypes.CDLL(None).malloc_trim

        def when_compiled(event: str, duration_secs: float, **_: Any) -> None:
            if event.endswith("/backend_compile_duration") and duration_secs > _TRIM_MIN_COMPILE_TIME_S:
                trim(0)

        jax.monitoring.register_event_duration_secs_listener(when_compiled)
