"""Batches as global arrays over the devices of all processes: each process provides its rows, and reads them back."""

import math
from collections.abc import Sequence
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding

from r1vl_jax.arrays import Array
from r1vl_jax.runtime import processes

Tree = TypeVar("Tree")


def local_shards(mesh: jax.sharding.Mesh, axes: Sequence[str]) -> list[int]:
    """The indices of this process's shards of a dimension that is sharded over these mesh axes.

    Every process has equally many. They need not be neighbours: a TPU mesh follows the network.

    Raises:
        ValueError: devices of several processes share a shard.
    """
    num_shards = math.prod(mesh.shape[axis] for axis in axes)
    others = [axis for axis in mesh.axis_names if axis not in axes]
    devices = mesh.devices.transpose([mesh.axis_names.index(axis) for axis in (*axes, *others)])
    process = np.vectorize(lambda device: device.process_index)(devices).reshape(num_shards, -1)
    if (process != process[:, :1]).any():
        divisors = [size for size in range(1, process.size + 1) if process.size % size == 0]
        fitting = [size for size in divisors if (np.ptp(process.reshape(-1, size), axis=1) == 0).all()]
        raise ValueError(
            f"mesh.tensor={mesh.shape['tensor']}: expected devices of one process along tensor, but it spans some of"
            f" the {len(np.unique(process))} processes; set one of {fitting}"
        )
    return np.flatnonzero(process[:, 0] == processes.index()).tolist()


def make_global_arrays(tree: Tree, shardings: Tree) -> Tree:
    """Places arrays on the devices of all processes.

    Args:
        tree: of arrays. Of a host array with a sharded dimension each process gives its own rows, in the order of
            `local_shards`; of one without, all of it. Arrays on the devices of all processes are resharded.
        shardings: a `NamedSharding` for every array.
    """
    if processes.count() == 1:
        return jax.device_put(tree, shardings)
    return jax.tree.map(_make_global_array, tree, shardings)


def _make_global_array(array: Array, sharding: NamedSharding) -> jax.Array:
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return jax.device_put(array, sharding)
    return jax.make_array_from_process_local_data(sharding, np.asarray(array))


def process_local_rows(tree: Tree, sharding: NamedSharding) -> Tree:
    """The rows of this process, on the host, of global arrays; the inverse of `make_global_arrays`.

    With a single process, the arrays as they are. All processes must call this.

    Args:
        tree: arrays whose first dimension is rows.
        sharding: shards the first dimension.
    """
    if processes.count() == 1:
        return tree
    return jax.tree.map(lambda array: _local_rows(jax.device_put(array, sharding)), tree)


def _local_rows(array: jax.Array) -> np.ndarray:
    # multihost_utils.global_array_to_host_local_array wants a contiguous mesh; a TPU mesh need not be.
    rows_from = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(rows_from[start]) for start in sorted(rows_from)])
