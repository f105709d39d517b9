"""The persistent compilation cache from one start to the next, and the memory that the compiler frees."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

START = """
import sys, jax, jax.numpy as jnp
from r1vl_jax.runtime.compilation_cache import enable_compilation_cache
enable_compilation_cache(sys.argv[1])
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name.endswith("/cache_hits")))
print(jax.jit(lambda x: jnp.linalg.qr(jnp.sin(x) @ x)[0].sum())(jnp.eye(300)))
print(sum(hits), jax.config.jax_compilation_cache_dir)
"""


def start(directory: str, home: Path, **environment: str) -> tuple[int, str]:
    """Cache hits of a new process, and its cache directory."""
    # With XLA_FLAGS of the other tests nothing compiles long enough to be cached.
    environment = os.environ | {"HOME": str(home), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""} | environment
    command = [sys.executable, "-c", START, directory]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    hits, _, where = done.stdout.splitlines()[-1].partition(" ")
    return int(hits), where


def test_the_next_start_hits_the_cache(tmp_path: Path):
    directory = tmp_path / ".cache" / "programs"
    assert start("~/.cache/programs", tmp_path) == (0, str(directory))
    assert list(directory.iterdir())
    assert start("~/.cache/programs", tmp_path)[0] > 0


def test_a_cache_configured_in_jax_has_precedence(tmp_path: Path):
    mine = str(tmp_path / "mine")
    assert start("~/programs", tmp_path, JAX_COMPILATION_CACHE_DIR=mine) == (0, mine)
    assert not (tmp_path / "programs").exists()


@pytest.mark.parametrize("directory", ["", "/dev/null/programs"])
def test_without_a_directory_programs_run_uncached(tmp_path: Path, directory: str):
    for _ in range(2):
        assert start(directory, tmp_path) == (0, directory or "None")
    assert not list(tmp_path.iterdir())


COMPILE = """
import sys, psutil, jax, jax.numpy as jnp
from r1vl_jax.runtime import compilation_cache
compilation_cache._TRIM_MIN_COMPILE_TIME_S = 0.0
if sys.argv[1] == "trim":
    compilation_cache.trim_malloc_after_compile()
    compilation_cache.trim_malloc_after_compile()  # a second run in the same process
def deep(x):
    for _ in range(400):
        x = jnp.sort(jnp.sin(x) @ x, axis=0)
    return x
jax.jit(deep).lower(jnp.eye(8)).compile()
print(psutil.Process().memory_info().rss)
"""


def test_memory_that_the_compiler_freed_is_returned():
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    untrimmed, trimmed = (
        int(subprocess.check_output([sys.executable, "-c", COMPILE, mode], env=environment)) for mode in ("no", "trim")
    )
    assert untrimmed - trimmed > 20 * 2**20
