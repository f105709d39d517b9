"""What the TPU compiler is told, and by whom; and that it suits JAX."""

import os
import subprocess
import sys
from importlib import metadata

import pytest

from r1vl_jax.runtime.libtpu import set_options, version_mismatch

NAME = "LIBTPU_INIT_ARGS"
GATHER = "--xla_jf_spmd_threshold_for_windowed_einsum_mib"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", f"{GATHER}=1000000"),
        ("--xla_other=1", f"{GATHER}=1000000 --xla_other=1"),
        (f"{GATHER}=1", f"{GATHER}=1"),
    ],
)
def test_what_a_user_has_set_stays(monkeypatch, given, expected):
    monkeypatch.setenv(NAME, given)
    for _ in range(2):
        set_options()
        assert os.environ[NAME] == expected


@pytest.mark.parametrize(
    ("installed", "expected"),
    [("0.0.42.1", None), ("0.0.52", "libtpu 0.0.52 is installed, jax 0.10.2 expects ==0.0.42.*: they misunderstand")],
)
def test_a_compiler_of_another_release_is_named(monkeypatch, installed, expected):
    monkeypatch.setattr(metadata, "version", {"libtpu": installed, "jax": "0.10.2"}.__getitem__)
    monkeypatch.setattr(metadata, "requires", lambda _: ["numpy>=2.0", 'libtpu==0.0.42.*; extra == "tpu"'])
    reason = version_mismatch()
    assert reason is expected or reason.startswith(expected)


def test_without_a_compiler_there_is_nothing_to_name(monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    assert version_mismatch() is None


def test_whether_the_compiler_is_in_this_process():
    """Of its own: another test may have loaded it here."""
    pytest.importorskip("libtpu")
    script = """
from r1vl_jax.aot import without_hardware
from r1vl_jax.compiling.topologies import parse
from r1vl_jax.tpu_compiler import is_loaded
without_hardware()
before = is_loaded()
parse("v5e-4").devices()
print(before, is_loaded())
"""
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "False True\n"
