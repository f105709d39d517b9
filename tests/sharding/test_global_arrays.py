"""Host arrays of several processes as global arrays, and back."""

from types import SimpleNamespace

import numpy as np
import pytest
from helpers.several_processes import run_processes

from r1vl_jax.arrays import BATCH_AXES
from r1vl_jax.runtime import processes
from r1vl_jax.sharding.global_arrays import local_shards
from r1vl_jax.sharding.mesh import AXES


def test_shards_belong_to_processes_that_need_not_be_neighbours(monkeypatch):
    """Two processes of four devices each."""
    devices = [SimpleNamespace(process_index=process) for process in (0, 0, 1, 1, 0, 0, 1, 1)]
    monkeypatch.setattr(processes, "index", lambda: 1)

    def shards_of_second(*shape: int) -> list[int]:
        mesh = SimpleNamespace(
            devices=np.array(devices, object).reshape(shape),
            axis_names=AXES,
            shape=dict(zip(AXES, shape, strict=True)),
        )
        return local_shards(mesh, BATCH_AXES)  # pyright: ignore[reportArgumentType]

    assert shards_of_second(8, 1, 1) == shards_of_second(2, 4, 1) == [2, 3, 6, 7]
    assert shards_of_second(2, 2, 2) == [1, 3]
    with pytest.raises(ValueError, match=r"mesh.tensor=4: .* spans some of the 2 processes; set one of \[1, 2\]"):
        shards_of_second(2, 1, 4)


SCRIPT = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from r1vl_jax.arrays import BATCH_AXES
from r1vl_jax.runtime import processes
from r1vl_jax.sharding.global_arrays import local_shards, make_global_arrays, process_local_rows
from r1vl_jax.sharding.mesh import AXES
with processes.initialize_distributed():
    order = [0, 4, 1, 5, 6, 2, 3, 7]  # processes 0 1 0 1 1 0 0 1
    mesh = jax.sharding.Mesh(np.array(jax.devices())[order].reshape(2, 4, 1), AXES)
    rows, columns, whole = (
        NamedSharding(mesh, PartitionSpec(*spec)) for spec in [(BATCH_AXES,), (None, BATCH_AXES), ()]
    )
    expected_BX = np.arange(16 * 3).reshape(16, 3)  # two rows a shard
    own = np.concatenate([expected_BX[2 * shard : 2 * shard + 2] for shard in local_shards(mesh, BATCH_AXES)])
    tree, shardings = (own, own.T, expected_BX), (rows, columns, whole)
    placed = make_global_arrays(tree, shardings)
    for array, expected, sharding in zip(placed, (expected_BX, expected_BX.T, expected_BX), shardings):
        assert array.shape == expected.shape and array.sharding == sharding
        assert all((shard.data == expected[shard.index]).all() for shard in array.addressable_shards)
    moved = make_global_arrays(placed[0], whole)
    assert (np.asarray(moved) == expected_BX).all()
    assert (process_local_rows((placed[0], moved), rows)[1] == own).all()
    print("shards", local_shards(mesh, BATCH_AXES))
"""


def test_rows_of_two_processes_become_one_array_and_return():
    ended = run_processes(SCRIPT, num_processes=2, num_devices=4)
    assert [status for status, _ in ended] == [0, 0], ended
    assert "shards [0, 2, 5, 6]" in ended[0][1]
    assert "shards [1, 3, 4, 7]" in ended[1][1]
