"""What several processes agree on, with the other processes replaced by stubs."""

import os
import re
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest

from r1vl_jax.runtime import processes
from r1vl_jax.sampling.tensor_parallel import device_memory_limit


def test_a_single_process_communicates_nothing(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: pytest.fail("looked for devices"))
    assert (processes.count(), processes.index(), processes.is_main_process()) == (1, 0, True)
    value = object()
    assert processes.all_gather_objects(value) == [value]
    assert processes.all_reduce_max((3, 1)) == (3, 1)
    assert processes.broadcast_from_main(value) is value
    with processes.main_process_first():
        pass


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("JAX_NUM_PROCESSES", "two", "a whole number"),
        ("JAX_PROCESS_ID", "-1", "a whole number"),
        ("JAX_COORDINATOR_ADDRESS", "nonsense", "host:port of process 0"),
    ],
)
def test_a_malformed_variable_is_named(monkeypatch, name, value, expected):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"^{name}={value}: expected {expected}$"), processes.initialize_distributed():
        pytest.fail("initialized")


def stub_all_gather(monkeypatch, *others):
    """Appends the values of other processes to that of this one, the first."""
    monkeypatch.setattr(processes, "all_gather_objects", lambda own: [own, *others])


def test_equal_values_agree(monkeypatch):
    values = {"seed": 3, "data_fingerprint": "ab", "weights_fingerprint": ""}
    stub_all_gather(monkeypatch, dict(values), dict(values))
    processes.check_agreement(values)


def test_values_that_differ_are_listed_with_their_processes(monkeypatch):
    second = {"data.source": "/b", "seed": 3, "data_fingerprint": "ef"}
    third = {"data.source": "/a", "seed": 3, "data_fingerprint": "ab", "newer": 1}
    stub_all_gather(monkeypatch, second, third)
    with pytest.raises(ValueError, match="the 3 processes differ; start all with one command") as refusal:
        processes.check_agreement({"data.source": "/a", "seed": 3, "data_fingerprint": "ab"})
    assert str(refusal.value).splitlines()[1:] == [
        "  data.source: '/a' in process 0, 2; '/b' in process 1",
        "  data_fingerprint: 'ab' in process 0, 2; 'ef' in process 1",
        "  newer: nothing in process 0, 1; 1 in process 2",
    ]


def test_the_device_with_least_memory_decides(monkeypatch):
    devices = [SimpleNamespace(memory_stats=lambda: {"bytes_limit": 32}), SimpleNamespace(memory_stats=lambda: None)]
    mesh = SimpleNamespace(local_devices=devices)
    stub_all_gather(monkeypatch, [31, 30], [None])
    assert device_memory_limit(mesh) == 30  # pyright: ignore[reportArgumentType]
    stub_all_gather(monkeypatch)
    assert device_memory_limit(mesh) == 32  # pyright: ignore[reportArgumentType]


def initialize_with(**announced: str) -> subprocess.CompletedProcess:
    """A program that does nothing but join the processes that these variables announce."""
    script = (
        "import jax\nfrom r1vl_jax.runtime.processes import initialize_distributed\n"
        "with initialize_distributed(): print(jax.distributed.is_initialized())"
    )
    clusters = ("JAX_", "SLURM_", "OMPI_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(clusters)}
    return subprocess.run([sys.executable, "-c", script], env=environment | announced, capture_output=True, text=True)


def test_without_a_cluster_no_coordination_service_is_started():
    assert initialize_with().stdout == "False\n"


def test_an_incomplete_announcement_is_refused():
    refusal = "JAX_NUM_PROCESSES=2: .* Set all of JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID, or none"
    assert re.search(refusal, initialize_with(JAX_NUM_PROCESSES="2").stderr)
