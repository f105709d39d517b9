"""Gradients accumulated over micro-batches: the numbers that one undivided batch gives, up to rounding."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from r1vl_jax.arrays import Completions, Params, PromptBatch
from r1vl_jax.learner.learner import Learner
from r1vl_jax.learner.logprobs import concat_prompt_and_completions, sequence_logps
from r1vl_jax.models.trainable import combine

Metrics = dict[str, Float[Array, ""]]

# (logp_BT, rows) -> loss, metrics; `rows` is any pytree of arrays with leading axis B.
Rows = Any
Objective = Callable[[Float[Array, "B T"], Rows], tuple[Float[Array, ""], Metrics]]
_LogpsBT = tuple[Float[Array, "B T"], Float[Array, "B T"]]  # log-probabilities and entropies


def accumulate_gradients(
    learner: Learner,
    trained: Params,
    frozen: Params,
    prompts: PromptBatch,
    completions: Completions,
    objective: Objective,
    rows: Rows,
) -> tuple[Params, Float[Array, "B T"], Float[Array, "B T"], Metrics]:
    """Gradient of the objective with respect to the trained parameters; also log-probabilities, entropies, and metrics.

    The vision tower runs once: its features are an input of every micro-batch, their gradients are summed, and one
    backward pass through the tower follows, as far down as something is trained.

    With `learner.gradient_cosine`, the prompts at even and at odd places are accumulated apart, which holds one more
    gradient in memory and runs the backward pass of the tower for each half; the metric is the cosine between the two.
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

    def gradient_of(batch: Any, *, num_sequences: int, num_parts: int) -> tuple[Params, _LogpsBT]:
        split = partial(_split_into_micro_batches, num_sequences=num_sequences, num_parts=num_parts)
        micro_batches = jax.tree.map(split, batch)
        # Sums, not means: the objective divides by a denominator over the whole batch, so that the number of
        # micro-batches does not change the loss.
        zeros = jax.tree.map(jnp.zeros_like, (trained, feature_MD))
        (text_gradient, feature_gradient_MD), logps = jax.lax.scan(accumulate, zeros, micro_batches)
        (vision_gradient,) = features_vjp(feature_gradient_MD)
        logp_BT, entropy_BT = (_merge_micro_batches(part, num_sequences=num_sequences) for part in logps)
        return jax.tree.map(jnp.add, text_gradient, vision_gradient), (logp_BT, entropy_BT)

    # The pictures of a prompt are shared by completions in several micro-batches: its forward and backward pass through
    # the tower are done once, outside the scan.
    feature_MD, features_vjp = jax.vjp(features, trained)
    num_prompts = len(prompts.token_PS)
    num_parts = learner.num_micro_batches(prompts.token_PS.shape, completions.token_BT.shape)
    num_sequences = learner.num_sequences(num_prompts, len(completions.token_BT), num_parts=num_parts)
    batch = concat_prompt_and_completions(prompts, completions, num_sequences=num_sequences), completions, rows
    if not learner.gradient_cosine:
        gradient, (logp_BT, entropy_BT) = gradient_of(batch, num_sequences=num_sequences, num_parts=num_parts)
        return gradient, logp_BT, entropy_BT, {}
    gradient_of_half = partial(gradient_of, num_sequences=num_sequences // 2, num_parts=num_parts // 2)
    return _accumulate_halves(learner, trained, batch, gradient_of_half, num_prompts=num_prompts)


def _accumulate_halves(
    learner: Learner,
    trained: Params,
    batch: Any,
    gradient_of_half: Callable[[Any], tuple[Params, _LogpsBT]],
    *,
    num_prompts: int,
) -> tuple[Params, Float[Array, "B T"], Float[Array, "B T"], Metrics]:
    """The results of `accumulate_gradients`, from the gradients of two halves of the prompts."""

    def accumulate(total: Params, half: Any):
        gradient, logps = gradient_of_half(half)
        gradient = learner.with_sharding(gradient)
        products = _inner_product(total, gradient), optax.global_norm(gradient)
        return jax.tree.map(jnp.add, total, gradient), (logps, products)

    halves = jax.tree.map(partial(_split_into_halves, num_prompts=num_prompts), batch)
    zeros = jax.tree.map(jnp.zeros_like, trained)
    gradient, (logps, (inner_product_2, norm_2)) = jax.lax.scan(accumulate, zeros, halves)
    # At the second half, the total was the gradient of the first.
    cosine = inner_product_2[1] / norm_2[0] / norm_2[1]
    logp_BT, entropy_BT = (_merge_halves(part, num_prompts=num_prompts) for part in logps)
    return gradient, logp_BT, entropy_BT, {"gradient_cosine": cosine}


def _inner_product(tree: Params, other: Params) -> Float[Array, ""]:
    # optax.tree.vdot flattens every leaf, for which it gathers those that are sharded.
    return jax.tree.reduce(jnp.add, jax.tree.map(lambda a, b: jnp.sum(a * b), tree, other))


def _split_into_halves(array_B: Array, *, num_prompts: int) -> Array:
    """[2, rows, ...], all rows of a prompt in one half.

    Prompts alternate, so that each device has some of both halves.
    """
    by_prompt = array_B.reshape(num_prompts // 2, 2, -1, *array_B.shape[1:])
    return jnp.swapaxes(by_prompt, 0, 1).reshape(2, -1, *array_B.shape[1:])


def _merge_halves(halves: Array, *, num_prompts: int) -> Array:
    """Undoes `_split_into_halves`."""
    by_prompt = halves.reshape(2, num_prompts // 2, -1, *halves.shape[2:])
    return jnp.swapaxes(by_prompt, 0, 1).reshape(-1, *halves.shape[2:])


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
