"""Compiled programs on disk, so that the next start finds them."""

import jax
from etils import epath

_WORTH_KEEPING_S = 0.1  # of compilation; JAX's own bound is a second, which most programs of a small run stay below


def keep_compiled(directory: str) -> None:
    """Keeps what is compiled from now on, unless JAX was told of a cache before.

    Args:
        directory: made where it is missing; where that fails JAX warns and goes on. "" keeps nothing.
    """
    if directory and not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(epath.Path(directory).expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _WORTH_KEEPING_S)
