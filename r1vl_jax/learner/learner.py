"""The learning step: log-probabilities of given completions, gradients, and the optimizer's update.

Four programs are compiled from here, on arrays alone:

    score           params, prompts, completions -> log-probabilities and entropies, no gradient (the reference)
    warmup_step     TrainState, frozen parameters, WarmupBatch -> TrainState, metrics
    step_grpo_step  TrainState, frozen parameters, TrainBatch  -> TrainState, metrics
    fused_step      TrainState, frozen parameters, prompts, what their answers are -> TrainState, metrics, Generated:
                    sampling, rewards, reference and update in one
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from r1vl_jax.arrays import (
    Params,
    bundle,
)
from r1vl_jax.config import Loss
from r1vl_jax.config.mesh import divisors
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.sharding.batch import num_batch_shards
from r1vl_jax.sharding.rules import shardings

Shape = tuple[int, ...]


@bundle
class TrainState:
    """All that an update changes. Neither the frozen reference nor frozen parameters are part of it.

    Attributes:
        step: updates done, skipped ones included.
        params: float32 master weights of what is trained; `trainable.combine` completes them.
        opt_state: the optimizer's moments and count.
        num_skipped: updates not applied because loss or gradient was not finite.
    """

    step: Int[Array, ""]
    params: Params
    opt_state: optax.OptState
    num_skipped: Int[Array, ""]


@dataclass(frozen=True)
class Learner:
    """The settings of scoring and updating that stay fixed over a stage; a static argument of the jitted steps.

    Attributes:
        optimizer: gradients -> updates, its schedule included.
        chunk_size: a device holds as many logits at one time as this many tokens have.
        temperature: divides the logits of every log-probability in the loss.
        micro_batches: parts of the rows that are differentiated one after another; each has rows of every device. The
            rows of a part that belong to one prompt are read behind it together.
        tokens_per_micro_batch: where it is not 0, parts are as few as have at most so many tokens on each device.
        loss: settings of the objective (StepGRPO only).
    """

    definition: Definition
    optimizer: optax.GradientTransformation
    chunk_size: int
    temperature: float = 1.0
    micro_batches: int = 1
    tokens_per_micro_batch: int = 0
    loss: Loss = Loss()

    def with_sharding(self, tree: Any) -> Any:
        """Parameters, or what has their paths, where the table places them. Left to itself, the compiler moves them."""
        mesh = self.definition.mesh
        return tree if mesh is None else jax.lax.with_sharding_constraint(tree, shardings(tree, mesh))

    def num_sequences(self, num_prompts: int, num_rows: int, *, num_parts: int = 1) -> int:
        """How many sequences are read: one a prompt, or as many more as give every device some of every part."""
        needed = num_parts * self._num_shards
        counts = [num_prompts * size for size in divisors(num_rows // num_prompts)]
        return next((count for count in counts if count % needed == 0), num_rows)

    def num_micro_batches(self, prompts: Shape, completions: Shape) -> int:
        """How many parts the rows of these shapes, padding included, are differentiated in; at most a row a device.

        Args:
            prompts, completions: [P, S] and [B, T].
        """
        if self.tokens_per_micro_batch == 0:
            return self.micro_batches
        (num_prompts, prompt_length), (num_rows, completion_length) = prompts, completions
        sizes = divisors(num_rows // self._num_shards)

        def tokens(num_parts: int) -> float:
            num_sequences = self.num_sequences(num_prompts, num_rows, num_parts=num_parts)
            total = num_sequences * prompt_length + num_rows * completion_length
            return total / num_parts / self._num_shards

        return next((size for size in sizes if tokens(size) <= self.tokens_per_micro_batch), sizes[-1])

    @property
    def _num_shards(self) -> int:
        """Parts of a batch, one or more devices each."""
        return num_batch_shards(self.definition.mesh)

    def init(self, params: Params) -> TrainState:
        """The state before the first update of these trained parameters."""

        @jax.jit  # one program, not one for every shape
        def moments(params: Params) -> optax.OptState:
            return self.with_sharding(self.optimizer.init(params))

        return TrainState(jnp.int32(0), params, moments(params), jnp.int32(0))
