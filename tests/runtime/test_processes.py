"""What several processes agree on, with the others made up: no process is started here."""

import itertools
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from r1vl_jax.arrays import BATCH_AXES
from r1vl_jax.runtime import heartbeat, processes
from r1vl_jax.sampling.tensor_parallel import device_memory
from r1vl_jax.sharding import global_arrays
from r1vl_jax.sharding.mesh import AXES


def test_alone_nothing_is_done(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: pytest.fail("touched the devices"))
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
        ("JAX_COORDINATOR_ADDRESS", "nonsense", "host:port of the first process"),
    ],
)
def test_a_variable_that_says_nothing_is_named(monkeypatch, name, value, expected):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"^{name}={value}: expected {expected}$"), processes.initialize_distributed():
        pytest.fail("initialized")


def gathering(monkeypatch, *others):
    """Makes up what the other processes give, behind what this one, the first, gives."""
    monkeypatch.setattr(processes, "all_gather_objects", lambda own: [own, *others])


def test_processes_that_see_the_same_go_on(monkeypatch):
    seen = {"seed": 3, "data_fingerprint": "ab", "weights_fingerprint": ""}
    gathering(monkeypatch, dict(seen), dict(seen))
    processes.check_agreement(seen)


def test_processes_that_see_another_thing_are_named_with_it(monkeypatch):
    of_second = {"data.source": "/b", "seed": 3, "data_fingerprint": "ef"}
    gathering(monkeypatch, of_second, {"data.source": "/a", "seed": 3, "data_fingerprint": "ab", "newer": 1})
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
    gathering(monkeypatch, [31, 30], [None])
    assert device_memory(mesh) == 30  # pyright: ignore[reportArgumentType]
    gathering(monkeypatch)
    assert device_memory(mesh) == 32  # pyright: ignore[reportArgumentType]


def joining(**announced: str) -> subprocess.CompletedProcess:
    """A program that joins what the environment announces, nothing but this."""
    script = (
        "import jax\nfrom r1vl_jax.runtime.processes import initialize_distributed\n"
        "with initialize_distributed(): print(jax.distributed.is_initialized())"
    )
    clusters = ("JAX_", "SLURM_", "OMPI_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(clusters)}
    return subprocess.run([sys.executable, "-c", script], env=environment | announced, capture_output=True, text=True)


def test_without_a_cluster_no_service_is_started():
    assert joining().stdout == "False\n"


def test_half_an_announcement_is_refused():
    refusal = "JAX_NUM_PROCESSES=2: .* Set all of JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID, or none"
    assert re.search(refusal, joining(JAX_NUM_PROCESSES="2").stderr)


def test_a_process_without_new_signs_is_lost(monkeypatch):
    now = itertools.count(100.0, 15.0)
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: next(now))
    signs = heartbeat._Signs(2)  # at 100 and 115
    assert signs.lost([("signs/0", "a"), ("signs/1", "a")]) == []  # at 130
    assert signs.lost([("signs/0", "b"), ("signs/1", "a")]) == []
    assert signs.lost([("signs/0", "c"), ("signs/1", "a")]) == ["1"]  # 30 seconds after its last new one


def test_a_loss_of_others_is_suspected_only_where_there_can_be_one():
    """Memory that runs out is this process's own."""
    lost, full = (jax.errors.JaxRuntimeError(text) for text in ("UNAVAILABLE: peer is gone", "RESOURCE_EXHAUSTED: ..."))
    assert heartbeat._may_be_of_a_loss(lost, 2)
    assert not heartbeat._may_be_of_a_loss(lost, 1)
    assert not heartbeat._may_be_of_a_loss(full, 2)
    assert not heartbeat._may_be_of_a_loss(ValueError("UNAVAILABLE"), 2)


def test_parts_of_a_batch_belong_to_processes(monkeypatch):
    """Two processes of four devices each, which need not be neighbours."""
    devices = [SimpleNamespace(process_index=process) for process in (0, 0, 1, 1, 0, 0, 1, 1)]
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "index", lambda: 1)

    def own(*shape: int) -> list[int]:
        mesh = SimpleNamespace(
            devices=np.array(devices, object).reshape(shape),
            axis_names=AXES,
            shape=dict(zip(AXES, shape, strict=True)),
        )
        return global_arrays.local_shards(mesh, BATCH_AXES)  # pyright: ignore[reportArgumentType]

    assert own(8, 1, 1) == own(2, 4, 1) == [2, 3, 6, 7]
    assert own(2, 2, 2) == [1, 3]
    with pytest.raises(ValueError, match=r"mesh.tensor=4: .* spans some of the 2 processes; set one of \[1, 2\]"):
        own(2, 1, 4)
