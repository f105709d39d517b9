"""The cosine between the gradients of two halves of the prompts, against two gradients of a plain loss."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.small import DEFINITION, make_adapter, make_params, make_prompts, make_train_batch
from jax.flatten_util import ravel_pytree

from r1vl_jax.arrays import SFTBatch
from r1vl_jax.config import Loss, Model, Optim
from r1vl_jax.learner.learner import Learner
from r1vl_jax.learner.logprobs import compute_logps
from r1vl_jax.learner.optimizer import optimizer
from r1vl_jax.learner.steps import sft_step, step_grpo_step
from r1vl_jax.models.lora import LoRA
from r1vl_jax.models.trainable import combine, partition

ADAPTED = dataclasses.replace(DEFINITION, lora=LoRA(2, 4.0, ("q_proj", "down_proj")))
LEARNER = Learner(DEFINITION, optax.sgd(0.1), chunk_size=64, micro_batches=2, gradient_cosine=True, loss=Loss(beta=0.0))
FULL = (4, 2)  # prompts, and completions of each


@pytest.fixture(scope="module")
def params():
    return make_params(scale=0.5)


def updated(learner, trained, frozen, batch):
    state = learner.init(jax.tree.map(jnp.array, trained))
    state, metrics = step_grpo_step(learner, state, frozen, batch)
    return state.params, {name: float(value) for name, value in metrics.items()}


def plain_gradients(learner, trained, frozen, batch):
    """Gradients of StepGRPO's loss without KL, as vectors: the part of the prompts at even places, that at odd ones.

    And the mean difference of the log-probabilities from those of the sampler.
    """
    rows, num_prompts = batch.rows, len(batch.prompts.token_PS)
    mask_BT, num_rows = rows.completions.mask_BT, len(rows.advantage_BT)
    is_odd_B = np.repeat(np.arange(num_prompts) % 2, num_rows // num_prompts)

    def loss(trained, weight_B):
        logp_BT, _ = compute_logps(learner, combine(trained, frozen), batch.prompts, rows.completions)
        loss_B = -jnp.sum(logp_BT * mask_BT * rows.advantage_BT, 1) / mask_BT.sum(1)
        return jnp.sum(weight_B * loss_B) / num_rows, logp_BT

    gradient = jax.jit(jax.grad(loss, has_aux=True))
    (even, logp_BT), (odd, _) = gradient(trained, 1.0 - is_odd_B), gradient(trained, 1.0 * is_odd_B)
    difference = np.sum(np.abs(logp_BT - rows.sampling_logp_BT) * mask_BT) / mask_BT.sum()
    return ravel_pytree(even)[0], ravel_pytree(odd)[0], difference


def cosine(vector, other):
    return float(vector @ other / jnp.linalg.norm(vector) / jnp.linalg.norm(other))


@pytest.mark.parametrize(
    ("model", "shape", "micro_batches", "num_sequences"),
    [(Model(), FULL, 2, 4), (Model(lora_r=2), (6, 4), 4, 12)],
    ids=["full", "lora"],
)
def test_cosine_and_update_are_those_of_two_gradients(params, model, shape, micro_batches, num_sequences):
    """In the second case the rows of a prompt are in two micro-batches, of one half; and the tower is frozen."""
    learner = dataclasses.replace(LEARNER, micro_batches=micro_batches)
    if model.lora_r:
        params, learner = combine(make_adapter(ADAPTED), params), dataclasses.replace(learner, definition=ADAPTED)
    trained, frozen = partition(params, model)
    batch = make_train_batch(*shape)
    assert learner.num_sequences(shape[0], shape[0] * shape[1], num_parts=micro_batches) == num_sequences
    even, odd, difference = plain_gradients(learner, trained, frozen, batch)
    after, metrics = updated(learner, trained, frozen, batch)
    assert metrics["gradient_cosine"] == pytest.approx(cosine(even, odd), abs=2e-5)
    assert metrics["grad_norm"] == pytest.approx(float(jnp.linalg.norm(even + odd)), rel=1e-4)
    update = ravel_pytree(trained)[0] - ravel_pytree(after)[0]
    np.testing.assert_allclose(update / 0.1, even + odd, rtol=1e-3, atol=2e-4 * np.abs(even + odd).max())
    assert metrics["sampling/sampling_logp_difference/mean"] == pytest.approx(difference, rel=1e-4)


def test_a_half_without_gradient_has_no_cosine(params):
    batch = make_train_batch(*FULL)
    advantage_BT = np.where(np.arange(8)[:, None] % 4 < 2, 0, batch.rows.advantage_BT)  # none at even places
    rows = dataclasses.replace(batch.rows, advantage_BT=advantage_BT)
    _, metrics = updated(LEARNER, params, {}, dataclasses.replace(batch, rows=rows))
    assert np.isnan(metrics["gradient_cosine"])
    assert metrics["grad_norm"] > 1e-3
    assert metrics["num_skipped"] == 0


@pytest.mark.parametrize("gradient_cosine", [False, True])
def test_supervised_updates_have_it_too(params, gradient_cosine):
    learner = dataclasses.replace(LEARNER, gradient_cosine=gradient_cosine)
    batch = SFTBatch(make_prompts(8), make_train_batch().rows.completions)
    _, metrics = jax.eval_shape(functools.partial(sft_step, learner), learner.init(params), {}, batch)
    assert ("gradient_cosine" in metrics) == gradient_cosine


@pytest.mark.parametrize(("limit", "num_parts"), [(560, 2), (280, 2), (279, 4), (100, 8), (1, 16)])
def test_micro_batches_are_even(limit, num_parts):
    """Four prompts of 20 tokens, four completions of 30 each; `test_learner.py` has the same without halves."""
    learner = dataclasses.replace(LEARNER, tokens_per_micro_batch=limit)
    assert learner.num_micro_batches((4, 20), (16, 30)) == num_parts


def test_memory_is_that_of_one_more_gradient():
    """Of a vocabulary so large that all else is small beside it; `test_learner.py` has one gradient less."""
    config = dataclasses.replace(DEFINITION.config, vocab_size=20_000, tie_word_embeddings=False)
    definition = dataclasses.replace(DEFINITION, config=config)
    abstract = jax.eval_shape(lambda: definition.init(jax.random.key(0)))
    adam = optimizer(Optim(), 10, abstract)
    learner = dataclasses.replace(LEARNER, definition=definition, optimizer=adam, chunk_size=16)
    state = jax.eval_shape(learner.init, abstract)
    memory = step_grpo_step.lower(learner, state, {}, make_train_batch()).compile().memory_analysis()
    assert memory is not None
    gradient = 4 * sum(leaf.size for leaf in jax.tree.leaves(state.params))
    logits = 4 * learner.chunk_size * config.vocab_size
    assert memory.temp_size_in_bytes < 2 * gradient + 3 * logits
