"""The settings of sampling, and where its arrays lie."""

import dataclasses

import jax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.sampling.methods import Method


@dataclasses.dataclass(frozen=True)
class Sampler:
    """What stays fixed over a run; a static argument of the jitted functions.

    Attributes:
        num_generations: samples G per prompt.
        max_length: tokens of a completion at most, the end-of-sequence token included.
        eos_token_ids: any of them ends a completion.
        forbidden_token_ids: never drawn: vision tokens, which would need an image, and ids without a token.
        temperature_in_report: divides the logits before log-probability and entropy are taken.
        mesh: the devices of the parameters in their order, laid out for decoding (see `sampling.mesh`); None leaves
            placement to the compiler.
    """

    definition: Definition
    method: Method
    num_generations: int
    max_length: int
    eos_token_ids: tuple[int, ...]
    forbidden_token_ids: tuple[int, ...]
    temperature_in_report: float = 1.0
    mesh: jax.sharding.Mesh | None = None

    def placed(self, array: Array, *axes: str | None) -> Array:
        """The array with its first dimensions divided over these axes of `mesh`, but for those an axis does not divide.

        To be called inside a jitted function.
        """
        if self.mesh is None:
            return array
        divided = [
            axis if axis and size % self.mesh.shape[axis] == 0 else None
            for axis, size in zip(axes, array.shape, strict=False)
        ]
        return jax.lax.with_sharding_constraint(array, NamedSharding(self.mesh, PartitionSpec(*divided)))
