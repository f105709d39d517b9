"""The profiler trace of an update, and the idle share of each device."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from r1vl_jax.observe import profiled
from r1vl_jax.observe.profile import idle_shares
from r1vl_jax.runtime import libtpu


def event(start: int, end: int) -> SimpleNamespace:
    """In milliseconds."""
    return SimpleNamespace(start_ns=start * 1e6, duration_ns=(end - start) * 1e6)


def plane(name: str, **lines: list[tuple[int, int]]) -> SimpleNamespace:
    """Lines by name, `_` for a blank, with starts and ends of events."""
    made = [
        SimpleNamespace(name=line.replace("_", " "), events=[event(*each) for each in events])
        for line, events in lines.items()
    ]
    return SimpleNamespace(name=name, lines=made)


def test_overlapping_events_count_once():
    planes = [
        plane("/device:TPU:0", Steps=[(0, 1000)], XLA_Ops=[(0, 200), (100, 300), (150, 160), (600, 700)]),
        plane("/device:GPU:0", Stream_1=[(0, 500)], Stream_2=[(400, 900)]),
        plane("/host:CPU", python=[(0, 1000)]),
    ]
    assert idle_shares(planes, 1.0) == {"TPU:0": pytest.approx(0.6), "GPU:0": pytest.approx(0.1)}


def test_without_accelerators_the_host_is_the_device():
    threads = SimpleNamespace(name="tf_XLAEigen/1", events=[event(0, 250)])
    host = SimpleNamespace(name="/host:CPU", lines=[threads])
    assert idle_shares([host], 1.0) == {"CPU": pytest.approx(0.75)}
    device = plane("/device:TPU:0", XLA_Ops=[(0, 1000)])
    assert idle_shares([host, device], 1.0) == {"TPU:0": 0.0}


TRACED = """
import sys, time
import jax, jax.numpy as jnp
from r1vl_jax.observe import profiled

product = jax.jit(lambda x: jax.lax.fori_loop(0, 100, lambda _, x: jnp.tanh(x @ x), x))
results = [product(jnp.ones((500, 500)))]
start = time.perf_counter()
jax.block_until_ready(product(results[0]))
seconds = time.perf_counter() - start
with profiled(sys.argv[1], enabled=True, wait=lambda: jax.block_until_ready(results)):
    time.sleep(seconds)
    results.append(product(results[0]))
print("slept:", seconds)
"""

TRACED_BESIDE_LIBTPU = """
import sys
import jax
from r1vl_jax.aot.topologies import parse_topology, set_up_compile_only
from r1vl_jax.observe import profiled

set_up_compile_only()
parse_topology("v5e-4").devices()
with profiled(sys.argv[1], enabled=True, wait=lambda: None):
    jax.numpy.ones(3).sum().block_until_ready()
"""


def traced(script: str, workdir: Path) -> subprocess.CompletedProcess:
    """In a subprocess: another test may have loaded libtpu into this one, whose tracer would start too."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", script, str(workdir)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_trace_includes_work_that_is_still_on_the_device(tmp_path):
    done = traced(TRACED, tmp_path)
    assert done.returncode == 0, done.stderr
    seconds = float(done.stdout.split("slept:")[1])
    written = json.loads((tmp_path / "profile" / "idle.json").read_text())
    assert written["seconds"] > seconds  # it slept as long
    assert 0.1 < written["idle"]["CPU"] < 0.9
    assert list(tmp_path.glob("profile/plugins/profile/*/*.xplane.pb"))
    assert "idle: CPU" in done.stdout


def test_a_mismatched_libtpu_does_not_crash_the_run(tmp_path):
    """With a libtpu of another release than JAX there is a warning and no trace."""
    pytest.importorskip("libtpu")
    done = traced(TRACED_BESIDE_LIBTPU, tmp_path)
    assert done.returncode == 0, done.stderr
    assert ("no profile" in done.stderr) == bool(libtpu.version_mismatch())
    assert any(tmp_path.iterdir()) != bool(libtpu.version_mismatch())


def test_no_trace_where_the_tracer_would_crash(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(libtpu, "is_loaded", lambda: True)
    monkeypatch.setattr(libtpu, "version_mismatch", lambda: "libtpu 1 is installed")
    with profiled(tmp_path, enabled=True, wait=lambda: pytest.fail("waited")):
        pass
    assert "would crash: libtpu 1 is installed" in caplog.text
    assert not list(tmp_path.iterdir())


def test_no_trace_unless_enabled(tmp_path):
    with profiled(tmp_path, enabled=False, wait=lambda: pytest.fail("waited")):
        pass
    assert not list(tmp_path.iterdir())
