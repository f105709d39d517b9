"""Rows of a batch over the devices of several processes: each process gives its own, and gets its own back."""

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding

from r1vl_jax.arrays import Array
from r1vl_jax.runtime import processes

Tree = TypeVar("Tree")


def local_shards(mesh: jax.sharding.Mesh, axes: Sequence[str]) -> list[int]:
    """Which of the parts that rows are divided into over these axes are this process's; as many in every process.

    Raises:
        ValueError: devices of several processes share a part.
    """
    num_parts = math.prod(mesh.shape[axis] for axis in axes)
    others = [axis for axis in mesh.axis_names if axis not in axes]
    devices = mesh.devices.transpose([mesh.axis_names.index(axis) for axis in (*axes, *others)])
    holder = np.vectorize(lambda device: device.process_index)(devices).reshape(num_parts, -1)
    if (holder != holder[:, :1]).any():
        divisors = [size for size in range(1, holder.size + 1) if holder.size % size == 0]
        fitting = [size for size in divisors if (np.ptp(holder.reshape(-1, size), axis=1) == 0).all()]
        raise ValueError(
            f"mesh.tensor={mesh.shape['tensor']}: expected devices of one process along tensor, but it spans some of"
            f" the {len(np.unique(holder))} processes; set one of {fitting}"
        )
    return np.flatnonzero(holder[:, 0] == processes.index()).tolist()


def make_global_arrays(tree: Tree, shardings: Tree) -> Tree:
    """Arrays on the devices of all processes.

    Args:
        tree: of arrays: on the host, the rows of this process, in the order of `own_parts`, where the sharding divides
            a dimension, and all of it where it divides none; or arrays that are on these devices already.
        shardings: a `NamedSharding` for every array.
    """
    if processes.count() == 1:
        return jax.device_put(tree, shardings)
    return jax.tree.map(_placed, tree, shardings)


def _placed(array: Array, sharding: NamedSharding) -> jax.Array:
    if _is_everywhere(array):
        return jax.device_put(array, sharding)
    own, dim = np.asarray(array), next((dim for dim, axes in enumerate(sharding.spec) if axes), None)
    if dim is None:
        return jax.make_array_from_callback(own.shape, sharding, lambda index: own[index])
    assert isinstance(sharding.mesh, jax.sharding.Mesh)
    parts = local_shards(sharding.mesh, sharding.spec[dim])
    size, rest = divmod(own.shape[dim], len(parts))
    assert not rest, f"{own.shape[dim]} rows for {len(parts)} parts"
    own_row_of = {part * size: number * size for number, part in enumerate(parts)}

    def part(index: Any) -> np.ndarray:
        first = own_row_of[index[dim].start or 0]
        return own[(*index[:dim], slice(first, first + size), *index[dim + 1 :])]

    num_rows = own.shape[dim] * processes.count()
    return jax.make_array_from_callback((*own.shape[:dim], num_rows, *own.shape[dim + 1 :]), sharding, part)


def process_local_rows(tree: Tree, sharding: NamedSharding) -> Tree:
    """The rows of this process, on the host, of arrays that all processes hold; the opposite of `placed`.

    With one process, the arrays as they are. All processes must call this.

    Args:
        tree: arrays whose first axis is rows.
        sharding: divides the first axis.
    """
    if processes.count() == 1:
        return tree
    return jax.tree.map(lambda array: _own_rows(jax.device_put(array, sharding)), tree)


def _own_rows(array: jax.Array) -> np.ndarray:
    part_at = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(part_at[start]) for start in sorted(part_at)])


def _is_everywhere(array: Array) -> bool:
    return isinstance(array, jax.Array) and not array.is_fully_addressable
