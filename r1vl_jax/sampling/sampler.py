"""The settings of sampling, and where its arrays lie."""

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
    """What stays fixed over a run; a static argument of the jitted functions.

    Attributes:
        num_generations: samples G per prompt.
        max_length: tokens of a completion at most, the end-of-sequence token included.
        eos_token_ids: any of them ends a completion.
        forbidden_token_ids: never drawn: vision tokens, which would need an image, and ids without a token.
        temperature_in_report: divides the logits before log-probability and entropy are taken.
        slots: rows that are decoded at one time, a multiple of the parts that a batch is divided into; where one ends,
            the next takes its place. 0 decodes all rows at one time.
        tensor: devices that hold one copy of the decoder together while tokens are drawn; of no use without a mesh.
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
        """The devices of the definition, which are the trainer's, laid out for decoding."""
        return self.definition.mesh and decoding_mesh(self.definition.mesh, self.tensor)

    @property
    def prompts_mesh(self) -> jax.sharding.Mesh | None:
        """Where the caches of prompts lie: where tokens are drawn. On a GPU, where prompts were read.

        A program with the kernels of cuDNN may know one mesh only.
        """
        return self.definition.mesh if self.definition.platform == "gpu" else self.mesh

    @property
    def num_shards(self) -> int:
        """Into how many parts rows are divided, each drawn by one device, or by `tensor` of them."""
        return num_batch_shards(self.mesh)

    @property
    def is_tensor_parallel(self) -> bool:
        """Whether a copy of the decoder lies on several devices, heads and vocabulary divided over them."""
        return self.mesh is not None and self.tensor > 1

    def on_trainer_mesh(self) -> "Sampler":
        """The same, with the decoder divided as the trainer divides it: for one program that samples and trains.

        What leaves a program of two meshes must say where it lies, or JAX refuses it; a step's figures do not.
        """
        mesh = self.definition.mesh
        return self if mesh is None else dataclasses.replace(self, tensor=mesh.shape["tensor"])


def decoding_mesh(trainer_mesh: jax.sharding.Mesh, tensor: int) -> jax.sharding.Mesh:
    """The same devices in the same order, as (data, 1, tensor); where tensor is the trainer's, the trainer's mesh.

    While tokens are drawn, fsdp divides rows and nothing else, as data does.
    """
    if trainer_mesh.shape["tensor"] == tensor:
        return trainer_mesh
    devices = trainer_mesh.devices.reshape(-1, 1, tensor)
    return jax.sharding.Mesh(devices, trainer_mesh.axis_names, axis_types=trainer_mesh.axis_types)


# How the first dimensions of an array are divided over the mesh.
ROWS_SPEC = PartitionSpec(BATCH_AXES)
CACHE_SPEC = PartitionSpec(BATCH_AXES, "tensor")  # rows and heads; positions and width stay whole


def make_sharding(mesh: jax.sharding.Mesh | None, spec: PartitionSpec) -> Any:
    """The place of an array, or of every array of a list, for `out_shardings`; without a mesh, left to the compiler."""
    return None if mesh is None else NamedSharding(mesh, spec)


def shard_map_rows(sampler: Sampler, function: Callable[..., Any], *, num_whole: int) -> Callable[..., Any]:
    """The function, called for the rows of each shard by themselves; it waits for other shards in `any_row` alone.

    What is divided over tensor is left to the compiler.

    Args:
        function: takes `num_whole` arguments of which every shard has all, then one that has its rows; all that it
            returns has rows.
    """
    if sampler.mesh is None:
        return function
    whole = PartitionSpec()
    return jax.shard_map(
        function,
        mesh=sampler.mesh,
        in_specs=(*[whole] * num_whole, ROWS_SPEC),
        out_specs=ROWS_SPEC,
        axis_names=set(BATCH_AXES if sampler.is_tensor_parallel else sampler.mesh.axis_names),
        check_vma=False,  # loops begin with what is alike on all shards, and go on with what is not
    )


def constrain_to_tensor(sampler: Sampler, array_BN: Array) -> Array:
    """Inside `by_shard`: an array whose second dimension, heads or vocabulary, is divided if `tensor` divides it."""
    if not sampler.is_tensor_parallel or array_BN.shape[1] % sampler.tensor:
        return array_BN
    return jax.lax.with_sharding_constraint(array_BN, PartitionSpec(None, "tensor"))


def any_unfinished(sampler: Sampler, is_so_B: Bool[Array, " B"]) -> Bool[Array, ""]:
    """Inside `by_shard`: whether it is so of any row, for the condition of a loop.

    Only rows of the own shard count. Where devices exchange something inside the loop, those of all do: shards at
    different turns would wait for each other without end.
    """
    is_so = jnp.any(is_so_B)
    return jax.lax.pmax(is_so.astype(jnp.int32), BATCH_AXES) > 0 if sampler.is_tensor_parallel else is_so
