"""The cache of compiled programs, as one start after another sees it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

START = """
import sys, jax, jax.numpy as jnp
from r1vl_jax.compile_cache import keep_compiled
keep_compiled(sys.argv[1])
found = []
jax.monitoring.register_event_listener(lambda name, **_: found.append(name.endswith("/cache_hits")))
print(jax.jit(lambda x: jnp.linalg.qr(jnp.sin(x) @ x)[0].sum())(jnp.eye(300)))
print(sum(found), jax.config.jax_compilation_cache_dir)
"""


def start(directory: str, home: Path, **environment: str) -> tuple[int, str]:
    """How many programs a new process finds, and where it looks for them."""
    # In haste, as other tests, nothing takes long enough to be worth keeping.
    environment = os.environ | {"HOME": str(home), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""} | environment
    command = [sys.executable, "-c", START, directory]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, _, where = done.stdout.splitlines()[-1].partition(" ")
    return int(found), where


def test_the_next_start_finds_what_was_compiled(tmp_path: Path):
    directory = tmp_path / ".cache" / "programs"
    assert start("~/.cache/programs", tmp_path) == (0, str(directory))
    assert list(directory.iterdir())
    assert start("~/.cache/programs", tmp_path)[0] > 0


def test_what_jax_was_told_goes_before(tmp_path: Path):
    mine = str(tmp_path / "mine")
    assert start("~/programs", tmp_path, JAX_COMPILATION_CACHE_DIR=mine) == (0, mine)
    assert not (tmp_path / "programs").exists()


@pytest.mark.parametrize("directory", ["", "/dev/null/programs"])
def test_without_a_directory_nothing_is_kept_and_nothing_is_lost(tmp_path: Path, directory: str):
    for _ in range(2):
        assert start(directory, tmp_path) == (0, directory or "None")
    assert not list(tmp_path.iterdir())


COMPILE = """
import sys, psutil, jax, jax.numpy as jnp
from r1vl_jax import compile_cache
from r1vl_jax.compile_cache import give_back_memory
compile_cache._LEAVES_MUCH_S = 0.0
if sys.argv[1] == "give":
    give_back_memory()
    give_back_memory()  # a second run of the same process
def deep(x):
    for _ in range(400):
        x = jnp.sort(jnp.sin(x) @ x, axis=0)
    return x
jax.jit(deep).lower(jnp.eye(8)).compile()
print(psutil.Process().memory_info().rss)
"""


def test_what_a_compiler_has_freed_is_given_back():
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    kept, given = (
        int(
            subprocess.run(
                [sys.executable, "-c", COMPILE, what], env=environment, capture_output=True, check=True
            ).stdout
        )
        for what in ("keep", "give")
    )
    assert kept - given > 20 * 2**20
