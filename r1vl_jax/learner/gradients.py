"""Gradients accumulated over micro-batches: the numbers that one undivided batch gives, up to rounding."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from r1vl_jax.arrays import Completions, Params, PromptBatch
from r1vl_jax.learner.learner import Learner
from r1vl_jax.learner.logprobs import concat_prompt_and_completions, sequence_logps
from r1vl_jax.models.trainable import combine

Metrics = dict[str, Float[Array, ""]]

# (logp_BT, rows) -> loss, metrics; `rows` is any pytree of arrays with leading axis B.
Rows = Any
Objective = Callable[[Float[Array, "B T"], Rows], tuple[Float[Array, ""], Metrics]]


def accumulate_gradients(
    learner: Learner,
    trained: Params,
    frozen: Params,
    prompts: PromptBatch,
    completions: Completions,
    objective: Objective,
    rows: Rows,
) -> tuple[Params, Float[Array, "B T"], Float[Array, "B T"]]:
    """Gradient of the objective with respect to the trained parameters; also log-probabilities and entropies.

    The vision tower runs once: its features are an input of every micro-batch, their gradients are summed, and one
    backward pass through the tower follows, as far down as something is trained.
    """

    def features(trained: Params) -> Float[Array, "M D"]:
        return learner.definition.bind(combine(trained, frozen)).image_features(prompts.vision)

    def micro_batch_loss(trained: Params, feature_MD: Float[Array, "M D"], micro_batch: Any):
        sequences, completions, rows = micro_batch
        logp_BT, entropy_BT = sequence_logps(learner, combine(trained, frozen), feature_MD, sequences, completions)
        return objective(logp_BT, rows)[0], (logp_BT, entropy_BT)

    def accumulate(total: Any, micro_batch: Any):
        gradient, logps = jax.grad(micro_batch_loss, argnums=(0, 1), has_aux=True)(trained, feature_MD, micro_batch)
        return jax.tree.map(jnp.add, total, gradient), logps

    # The pictures of a prompt are shared by completions in several micro-batches: its forward and backward pass through
    # the tower are done once, outside the scan.
    feature_MD, features_vjp = jax.vjp(features, trained)
    num_parts = learner.num_micro_batches(prompts.token_PS.shape, completions.token_BT.shape)
    num_sequences = learner.num_sequences(len(prompts.token_PS), len(completions.token_BT), num_parts=num_parts)
    sequences = concat_prompt_and_completions(prompts, completions, num_sequences=num_sequences)
    split = partial(_split_into_micro_batches, num_sequences=num_sequences, num_parts=num_parts)
    micro_batches = jax.tree.map(split, (sequences, completions, rows))
    # Sums, not means: the objective divides by a denominator over the whole batch, so that the number of micro-batches
    # does not change the loss.
    zeros = jax.tree.map(jnp.zeros_like, (trained, feature_MD))
    (text_gradient, feature_gradient_MD), (logp, entropy) = jax.lax.scan(accumulate, zeros, micro_batches)
    (vision_gradient,) = features_vjp(feature_gradient_MD)
    logp_BT, entropy_BT = (_merge_micro_batches(part, num_sequences=num_sequences) for part in (logp, entropy))
    return jax.tree.map(jnp.add, text_gradient, vision_gradient), logp_BT, entropy_BT


def _split_into_micro_batches(array_B: Array, *, num_sequences: int, num_parts: int) -> Array:
    """[micro-batches, rows, ...], the rows of a sequence together.

    Every micro-batch takes sequences at a stride, so that each device has some of them.
    """
    by_sequence = array_B.reshape(num_sequences // num_parts, num_parts, -1, *array_B.shape[1:])
    return jnp.swapaxes(by_sequence, 0, 1).reshape(num_parts, -1, *array_B.shape[1:])


def _merge_micro_batches(parts: Array, *, num_sequences: int) -> Array:
    """Undoes `_split_into_micro_batches`."""
    num_parts = len(parts)
    by_sequence = parts.reshape(num_parts, num_sequences // num_parts, -1, *parts.shape[2:])
    return jnp.swapaxes(by_sequence, 0, 1).reshape(-1, *parts.shape[2:])
