"""libtpu's options, its version, and that it is left alone on a machine without a TPU."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from r1vl_jax.runtime import libtpu

ROOT = Path(__file__).parents[2]
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
def test_options_of_the_user_stay(monkeypatch, given, expected):
    monkeypatch.setenv(NAME, given)
    for _ in range(2):
        libtpu.set_options()
        assert os.environ[NAME] == expected


@pytest.mark.parametrize(
    ("installed", "expected"),
    [("0.0.42.1", None), ("0.0.52", "libtpu 0.0.52 is installed, jax 0.10.2 expects ==0.0.42.*: traces and large")],
)
def test_a_version_of_another_release_is_reported(monkeypatch, installed, expected):
    monkeypatch.setattr(metadata, "version", {"libtpu": installed, "jax": "0.10.2"}.__getitem__)
    monkeypatch.setattr(metadata, "requires", lambda _: ["numpy>=2.0", 'libtpu==0.0.42.*; extra == "tpu"'])
    reason = libtpu.version_mismatch()
    assert reason is expected or reason.startswith(expected)


def test_without_libtpu_there_is_no_mismatch(monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    assert libtpu.version_mismatch() is None


def test_whether_libtpu_is_loaded():
    """In a process of its own: another test may have loaded it in this one."""
    pytest.importorskip("libtpu")
    script = """
from r1vl_jax.aot.topologies import parse_topology, set_up_compile_only
from r1vl_jax.runtime.libtpu import is_loaded
set_up_compile_only()
before = is_loaded()
parse_topology("v5e-4").devices()
print(before, is_loaded())
"""
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "False True\n"


@pytest.fixture
def updates(monkeypatch) -> dict[str, str]:
    """What is written to JAX's configuration, on a machine with libtpu and no TPU, GPU or settings."""
    written = {}
    config = SimpleNamespace(values={"jax_platforms": None}, update=written.__setitem__)
    monkeypatch.setattr(libtpu, "jax", SimpleNamespace(config=config))
    monkeypatch.setattr(libtpu, "_TPU_DEVICES", ())
    monkeypatch.setattr(metadata, "entry_points", lambda group: [])
    for name in libtpu._TPU_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return written


def test_a_machine_without_a_tpu_uses_the_cpu(updates):
    libtpu.skip_without_tpu()
    assert updates == {"jax_platforms": "cpu"}


@pytest.mark.parametrize("platforms", ["tpu,cpu", "cuda", ""])
def test_platforms_that_are_set_stay(updates, platforms):
    """By the user, or by JAX, which sees a TPU on the PCI bus."""
    libtpu.jax.config.values["jax_platforms"] = platforms
    libtpu.skip_without_tpu()
    assert updates == {}


@pytest.mark.parametrize(
    ("target", "name", "value"),
    [
        (libtpu, "_TPU_DEVICES", ("accel*", "nul?")),
        (metadata, "entry_points", lambda group: ["xla_cuda13"] if group == "jax_plugins" else []),
        (os, "environ", {"TPU_WORKER_ID": "0"}),
    ],
    ids=["device", "plugin", "variable"],
)
def test_where_there_may_be_a_tpu_or_gpu_jax_chooses(updates, monkeypatch, target, name, value):
    monkeypatch.setattr(target, name, value)
    libtpu.skip_without_tpu()
    assert updates == {}


def test_a_program_is_silent_without_a_tpu():
    """libtpu, tried, prints "Failed to find host bounds for accelerator type" and more."""
    pytest.importorskip("libtpu")
    if (
        metadata.entry_points(group="jax_plugins")
        or any(Path("/dev").glob("accel*"))
        or any(Path("/dev").glob("vfio/*"))
    ):
        pytest.skip("this machine may have a TPU or a GPU")
    script = "import jax; from r1vl_jax.runtime.cli import run_with_config as run; run(lambda _: print(jax.devices()))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "TPU_"))}
    command = [sys.executable, "-c", script, "--config=configs/tiny.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[CpuDevice(id=0)]\n", "")
