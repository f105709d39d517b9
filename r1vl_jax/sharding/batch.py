"""How a batch is sharded: prompts, rows and packed image patches over the mesh axes (data, fsdp)."""

import math
from collections.abc import Sequence

import jax
from jax.sharding import NamedSharding, PartitionSpec

from r1vl_jax.arrays import BATCH_AXES, Bundle, map_axes
from r1vl_jax.sharding.global_arrays import make_global_arrays


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def num_batch_shards(mesh: jax.sharding.Mesh | None) -> int:
    """The number of shards of a batch, the product of its mesh axes; 1 without a mesh."""
    return 1 if mesh is None else math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def shard_batch(bundle: Bundle, mesh: jax.sharding.Mesh) -> Bundle:
    """Places a batch on the devices: prompts, rows and packed image patches are sharded over (data, fsdp).

    Arrays without these axes are replicated. JAX raises if the shards do not divide the number of rows.

    Args:
        bundle: host arrays hold the rows of this process, in the order of `local_shards`; arrays on the devices of all
            processes hold every row, and are resharded if they are sharded otherwise.
    """
    return make_global_arrays(bundle, map_axes(lambda _, axes: batch_sharding(axes, mesh), bundle))


def batch_sharding(axes: Sequence[str], mesh: jax.sharding.Mesh) -> NamedSharding:
    """The sharding that `shard_batch` gives an array with these axis letters."""
    return NamedSharding(mesh, PartitionSpec(*(BATCH_AXES if axis in _SHARDED_AXES else None for axis in axes)))


_SHARDED_AXES = ("P", "B", "Z")  # prompts, rows, shards of packed image patches; the legend is in `arrays`
