"""The sampler's fixed settings, and how its arrays are sharded."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool

from r1vl_jax.arrays import BATCH_AXES
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.sampling.methods import Method
from r1vl_jax.sharding.batch import num_batch_shards


@dataclasses.dataclass(frozen=True)
class Sampler:
    """What stays fixed over a run; hashable, so it can be a static argument of the jitted programs.

    Attributes:
        num_generations: samples G per prompt.
        max_length: most tokens of a completion, the end-of-sequence token included.
        eos_token_ids: each of them ends a completion.
        forbidden_token_ids: never sampled: vision tokens, which would need an image, and ids without a token.
        logp_temperature: divides the logits before log-probability and entropy are taken.
        slots: rows that are decoded at one time by continuous batching, a multiple of the batch shards; 0 decodes all
            rows at one time.
        tensor: tensor-parallel size of decoding: devices that hold one copy of the decoder together. Unused without a
            mesh.
    """

    definition: Definition
    method: Method
    num_generations: int
    max_length: int
    eos_token_ids: tuple[int, ...]
    forbidden_token_ids: tuple[int, ...]
    logp_temperature: float = 1.0
    slots: int = 0
    tensor: int = 1

    @property
    def mesh(self) -> jax.sharding.Mesh | None:
        """The mesh of decoding: the trainer's devices in another shape, see `decoding_mesh`."""
        return self.definition.mesh and decoding_mesh(self.definition.mesh, self.tensor)

    @property
    def prefix_cache_mesh(self) -> jax.sharding.Mesh | None:
        """The mesh on which prefill returns the prefix caches: decoding's, and on a GPU the trainer's.

        A program with cuDNN's custom calls must not use two meshes, so there `decode` reshards the caches.
        """
        return self.definition.mesh if self.definition.platform == "gpu" else self.mesh

    @property
    def num_shards(self) -> int:
        """Data-parallel size of decoding: shards of the rows, each decoded by one device or by `tensor` of them."""
        return num_batch_shards(self.mesh)

    @property
    def is_tensor_parallel(self) -> bool:
        """Whether a copy of the decoder is sharded over several devices, by heads, MLP columns and vocabulary."""
        return self.mesh is not None and self.tensor > 1

    def on_trainer_mesh(self) -> "Sampler":
        """The same sampler with the trainer's tensor-parallel size, for one program that samples and trains.

        JAX demands explicit output shardings of a program with two meshes, and a step's metrics have none.
        """
        mesh = self.definition.mesh
        return self if mesh is None else dataclasses.replace(self, tensor=mesh.shape["tensor"])


def decoding_mesh(trainer_mesh: jax.sharding.Mesh, tensor: int) -> jax.sharding.Mesh:
    """The trainer's devices in the same order, reshaped to (data, 1, tensor).

    Decoding shards no weight over fsdp: it would have to be gathered for every token. If the tensor-parallel size is
    the trainer's, this is the trainer's mesh, whose fsdp axis then shards rows only, as data does.
    """
    if trainer_mesh.shape["tensor"] == tensor:
        return trainer_mesh
    devices = trainer_mesh.devices.reshape(-1, 1, tensor)
    return jax.sharding.Mesh(devices, trainer_mesh.axis_names, axis_types=trainer_mesh.axis_types)


# How the leading axes of an array are sharded.
ROWS_SPEC = PartitionSpec(BATCH_AXES)
CACHE_SPEC = PartitionSpec(BATCH_AXES, "tensor")  # rows and heads; columns and head width are not sharded


def make_sharding(mesh: jax.sharding.Mesh | None, spec: PartitionSpec) -> Any:
    """An `out_shardings` entry for an array or a list of arrays; without a mesh None, which leaves it to XLA."""
    return None if mesh is None else NamedSharding(mesh, spec)


def shard_map_rows(sampler: Sampler, function: Callable[..., Any], *, num_replicated: int) -> Callable[..., Any]:
    """Runs a function on each shard of the rows independently (`shard_map`).

    Shards do not wait for each other, except in `any_unfinished`, so a shard's decode loop ends with its own rows. With
    tensor parallelism the function is manual over the batch axes alone: XLA partitions it over "tensor".

    Args:
        function: takes `num_replicated` arguments that are equal on all shards, then one with rows; all its results
            have rows.
    """
    if sampler.mesh is None:
        return function
    # `axis_names` are the manual axes. A loop inside is then a loop of the shard, with a condition of its own; under
    # plain jit all shards would run one loop for as long as the longest completion of any.
    return jax.shard_map(
        function,
        mesh=sampler.mesh,
        in_specs=(*[PartitionSpec()] * num_replicated, ROWS_SPEC),
        out_specs=ROWS_SPEC,
        axis_names=set(BATCH_AXES if sampler.is_tensor_parallel else sampler.mesh.axis_names),
        check_vma=False,  # loop carries start replicated and become varying, which the check rejects
    )


def constrain_to_tensor(sampler: Sampler, array_BN: Array) -> Array:
    """Inside `shard_map_rows`: shards the second axis, heads or vocabulary, over "tensor" if that divides it.

    XLA then keeps this sharding for what the decode loop carries, instead of choosing one.
    """
    if not sampler.is_tensor_parallel or array_BN.shape[1] % sampler.tensor:
        return array_BN
    return jax.lax.with_sharding_constraint(array_BN, PartitionSpec(None, "tensor"))


def any_unfinished(sampler: Sampler, is_running_B: Bool[Array, " B"]) -> Bool[Array, ""]:
    """Inside `shard_map_rows`: whether any row is still running, for the condition of a loop.

    Without tensor parallelism this is local to the shard. With it the loop's body has collectives, which all devices
    must execute equally often, so the condition is reduced over all shards: else they would deadlock.
    """
    is_any_running = jnp.any(is_running_B)
    if not sampler.is_tensor_parallel:
        return is_any_running
    return jax.lax.pmax(is_any_running.astype(jnp.int32), BATCH_AXES) > 0
