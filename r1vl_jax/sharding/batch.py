"""How a batch is divided over the devices: its prompts, its rows and the rows of its images over (data, fsdp)."""

import math
from collections.abc import Sequence

import jax
from jax.sharding import NamedSharding, PartitionSpec

from r1vl_jax.arrays import BATCH_AXES, Bundle, map_axes
from r1vl_jax.sharding.global_arrays import make_global_arrays


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Every device holds all of it."""
    return NamedSharding(mesh, PartitionSpec())


def num_batch_shards(mesh: jax.sharding.Mesh | None) -> int:
    """Into how many parts the rows of a batch are divided; 1 without a mesh."""
    return 1 if mesh is None else math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def shard_batch(bundle: Bundle, mesh: jax.sharding.Mesh) -> Bundle:
    """Places a batch: its prompts, its rows and the rows of its images are divided over (data, fsdp).

    What has none of these axes is on every device. A number of rows that does not divide so is an error of JAX's.

    Args:
        bundle: arrays of the host hold the rows of this process, in the order of `rows.own_parts`; those that are on
            devices of all processes hold every row, and are moved where they are not yet placed so.
    """
    return make_global_arrays(bundle, map_axes(lambda _, axes: batch_sharding(axes, mesh), bundle))


def batch_sharding(axes: Sequence[str], mesh: jax.sharding.Mesh) -> NamedSharding:
    """Where `divide` puts an array with these axis letters."""
    return NamedSharding(mesh, PartitionSpec(*(BATCH_AXES if axis in _SHARDED_AXES else None for axis in axes)))


_SHARDED_AXES = ("P", "B", "Z")  # prompts, rows, shards of images; as in `arrays`
