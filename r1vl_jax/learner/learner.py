"""The state and the settings of an update, which the jitted programs of this package share.

logprobs.compute_logps   params, prompts, completions -> log-probabilities and entropies, no gradient
steps.sft_step           TrainState, frozen parameters, SFTBatch -> TrainState, metrics
steps.step_grpo_step     TrainState, frozen parameters, TrainBatch -> TrainState, metrics
fused_step.fused_step    TrainState, frozen parameters, prompts, reward targets -> TrainState, metrics, FusedOutput
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from r1vl_jax.arrays import Params, bundle
from r1vl_jax.config import Loss
from r1vl_jax.config.mesh import divisors
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.sharding.batch import num_batch_shards
from r1vl_jax.sharding.rules import shardings

Shape = tuple[int, ...]


@bundle
class TrainState:
    """All that an update changes; neither the frozen reference nor frozen parameters are part of it.

    Attributes:
        step: updates done, skipped ones included.
        params: float32 master weights of the trained parameters; `trainable.combine` adds the frozen ones.
        opt_state: the optimizer's moments and count.
        num_skipped: updates not applied because loss or gradient was not finite.
    """

    step: Int[Array, ""]
    params: Params
    opt_state: optax.OptState
    num_skipped: Int[Array, ""]


@dataclass(frozen=True)
class Learner:
    """What stays fixed over the updates of a stage; a static argument of the jitted programs.

    Attributes:
        optimizer: gradients -> updates, its schedule included.
        chunk_size: tokens whose logits exist at one time, on each device.
        temperature: divides the logits of every log-probability in the loss.
        micro_batches: parts of the rows whose gradients are accumulated; each has rows of every device. Rows of one
            prompt in one micro-batch share that prompt's forward pass.
        tokens_per_micro_batch: if not 0, the fewest micro-batches with at most this many tokens on each device.
        gradient_cosine: whether an update compares the gradients of two halves of its prompts. The number of prompts
            is even then, and so is that of micro-batches.
        loss: settings of the objective (StepGRPO only).
    """

    definition: Definition
    optimizer: optax.GradientTransformation
    chunk_size: int
    temperature: float = 1.0
    micro_batches: int = 1
    tokens_per_micro_batch: int = 0
    gradient_cosine: bool = False
    loss: Loss = Loss()

    def with_sharding(self, tree: Any) -> Any:
        """Constrains parameters, gradients or moments to `sharding.rules`; without it the compiler drops fsdp."""
        mesh = self.definition.mesh
        return tree if mesh is None else jax.lax.with_sharding_constraint(tree, shardings(tree, mesh))

    def num_sequences(self, num_prompts: int, num_rows: int, *, num_parts: int = 1) -> int:
        """Sequences of a forward pass: one a prompt, or more, so that every device has some of each micro-batch."""
        needed = num_parts * self._num_shards
        counts = [num_prompts * size for size in divisors(num_rows // num_prompts)]
        return next((count for count in counts if count % needed == 0), num_rows)

    def num_micro_batches(self, prompts: Shape, completions: Shape) -> int:
        """Micro-batches for rows of these shapes, padding included; at most one row a device in each.

        Args:
            prompts, completions: [P, S] and [B, T].
        """
        if self.tokens_per_micro_batch == 0:
            return self.micro_batches
        (num_prompts, prompt_length), (num_rows, completion_length) = prompts, completions
        sizes = [size for size in divisors(num_rows // self._num_shards) if size % (1 + self.gradient_cosine) == 0]

        def tokens(num_parts: int) -> float:
            num_sequences = self.num_sequences(num_prompts, num_rows, num_parts=num_parts)
            total = num_sequences * prompt_length + num_rows * completion_length
            return total / num_parts / self._num_shards

        return next((size for size in sizes if tokens(size) <= self.tokens_per_micro_batch), sizes[-1])

    @property
    def _num_shards(self) -> int:
        """Shards of a batch over (data, fsdp)."""
        return num_batch_shards(self.definition.mesh)

    def init(self, params: Params) -> TrainState:
        """The state before the first update of these trained parameters."""

        @jax.jit  # one program, not one for every shape
        def moments(params: Params) -> optax.OptState:
            return self.with_sharding(self.optimizer.init(params))

        return TrainState(jnp.int32(0), params, moments(params), jnp.int32(0))
