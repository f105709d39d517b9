"""The update against plain computations, and what must not change it: micro-batches, padding, order of rows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.small import DEFINITION, make_params, make_prompts, make_train_batch, take
from jax.sharding import Mesh

from r1vl_jax.arrays import SFTBatch, TrainBatch
from r1vl_jax.config import Loss, Optim
from r1vl_jax.learner.learner import Learner
from r1vl_jax.learner.logprobs import compute_logps
from r1vl_jax.learner.optimizer import optimizer
from r1vl_jax.learner.steps import sft_step, step_grpo_step
from r1vl_jax.sharding.mesh import AXES

LEARNER = Learner(DEFINITION, optax.sgd(0.1), chunk_size=64, loss=Loss(beta=0.04))


@pytest.fixture(scope="module")
def params():
    return make_params(scale=0.5)


def updated(learner, params, batch, step=step_grpo_step):
    state, metrics = step(learner, learner.init(jax.tree.map(jnp.copy, params)), {}, batch)
    return state, {name: float(value) for name, value in metrics.items()}


def distance(tree, other, start):
    """Norm of the difference of two updates, relative to the update."""
    difference, update = (optax.global_norm(jax.tree.map(jnp.subtract, tree, origin)) for origin in (other, start))
    return float(difference / update)


def test_the_loss_is_the_formula(params):
    batch = make_train_batch()
    logp, _ = compute_logps(LEARNER, params, batch.prompts, batch.rows.completions)
    mask, ref = batch.rows.completions.mask_BT, batch.rows.ref_logp_BT
    d = ref - np.asarray(logp)
    token = -batch.rows.advantage_BT + 0.04 * (np.exp(d) - d - 1)
    expected = np.mean((token * mask).sum(1) / mask.sum(1))
    _, metrics = updated(LEARNER, params, batch)
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)
    assert metrics["kl"] == pytest.approx(((np.exp(d) - d - 1) * mask).sum() / mask.sum(), rel=1e-4)


def test_sampling_difference_is_the_distance_to_the_reported_logp(params):
    batch = make_train_batch()
    logp, _ = compute_logps(LEARNER, params, batch.prompts, batch.rows.completions)
    rows = dataclasses.replace(batch.rows, sampling_logp_BT=logp + 0.25 * batch.rows.completions.mask_BT)
    _, metrics = updated(LEARNER, params, dataclasses.replace(batch, rows=rows))
    assert metrics["sampling/sampling_logp_difference/max"] == pytest.approx(0.25, rel=1e-4)
    assert metrics["sampling/sampling_logp_difference/mean"] == pytest.approx(0.25, rel=1e-4)


def test_reading_a_prompt_once_for_its_completions_changes_nothing(params):
    """Against rows that all have a prompt of their own, which is then read as often."""
    batch = make_train_batch(num_prompts=3, num_generations=4)
    apart = dataclasses.replace(batch, prompts=take(batch.prompts, [row // 4 for row in range(12)]))
    assert [LEARNER.num_sequences(number, 12) for number in (3, 12)] == [3, 12]
    shared, metrics = updated(LEARNER, params, batch)
    unshared, metrics_apart = updated(LEARNER, params, apart)
    assert distance(shared.params, unshared.params, params) < 1e-5
    assert metrics == pytest.approx(metrics_apart, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("micro_batches", "num_prompts", "num_sequences"), [(1, 4, 4), (2, 4, 4), (2, 3, 6), (4, 3, 12)]
)
def test_prompts_are_shared_as_far_as_every_part_has_its_rows(micro_batches, num_prompts, num_sequences):
    learner = dataclasses.replace(LEARNER, micro_batches=micro_batches)
    assert learner.num_sequences(num_prompts, 4 * num_prompts, num_parts=micro_batches) == num_sequences


@pytest.mark.parametrize(
    ("limit", "num_devices", "num_parts"),
    [(0, 1, 3), (560, 1, 1), (559, 1, 2), (280, 1, 2), (279, 1, 4), (100, 1, 8), (40, 1, 16), (1, 1, 16), (80, 4, 2)],
)
def test_parts_are_as_few_as_hold_the_tokens(limit, num_devices, num_parts):
    """Four prompts of 20 tokens, four completions of 30 each: 560 tokens, and more where a prompt is read again."""
    mesh = Mesh(np.array(jax.devices()[:num_devices]).reshape(1, num_devices, 1), AXES)
    definition = dataclasses.replace(LEARNER.definition, mesh=mesh if num_devices > 1 else None)
    learner = Learner(definition, LEARNER.optimizer, 16, micro_batches=3, tokens_per_micro_batch=limit)
    assert learner.num_micro_batches((4, 20), (16, 30)) == num_parts


@pytest.mark.parametrize(("setting", "num_parts"), [({"micro_batches": 2}, 2), ({"tokens_per_micro_batch": 30}, 4)])
def test_micro_batches_change_nothing(params, setting, num_parts):
    batch = make_train_batch()
    whole, metrics = updated(LEARNER, params, batch)
    split = dataclasses.replace(LEARNER, **setting)
    shapes = batch.prompts.token_PS.shape, batch.rows.completions.token_BT.shape
    assert split.num_micro_batches(*shapes) == num_parts, shapes
    parts, metrics_of_parts = updated(split, params, batch)
    assert distance(parts.params, whole.params, params) < 1e-5
    assert metrics_of_parts == pytest.approx(metrics, rel=1e-4)

    warmup = SFTBatch(make_prompts(8), batch.rows.completions)
    whole, metrics = updated(LEARNER, params, warmup, sft_step)
    parts, metrics_of_parts = updated(split, params, warmup, sft_step)
    assert distance(parts.params, whole.params, params) < 1e-5
    assert metrics_of_parts == pytest.approx(metrics, rel=1e-4)


@pytest.mark.parametrize(
    "loss", [Loss(loss_type="dapo", epsilon_high=0.28), Loss(importance_sampling_level="sequence")]
)
def test_micro_batches_change_no_loss_type(params, loss):
    batch = off_policy(make_train_batch())
    whole, metrics = updated(dataclasses.replace(LEARNER, loss=loss), params, batch)
    parts, metrics_of_parts = updated(dataclasses.replace(LEARNER, loss=loss, micro_batches=4), params, batch)
    assert distance(parts.params, whole.params, params) < 1e-5
    assert metrics_of_parts == pytest.approx(metrics, rel=1e-4)


def off_policy(batch):
    """As if another policy had sampled: some ratios leave the region of the clipping."""
    old_logp = (batch.rows.sampling_logp_BT + np.random.default_rng(5).normal(0, 0.3, (8, 6))).astype(np.float32)
    return dataclasses.replace(batch, rows=dataclasses.replace(batch.rows, old_logp_BT=old_logp))


def test_the_first_ratio_is_one_and_later_ones_are_clipped(params):
    """The scoring pass and the update compute the same numbers; after an update the policy has moved."""
    batch = make_train_batch()
    logp, _ = compute_logps(LEARNER, params, batch.prompts, batch.rows.completions)
    as_sampled = dataclasses.replace(batch.rows, sampling_logp_BT=logp)
    _, metrics = updated(LEARNER, params, dataclasses.replace(batch, rows=as_sampled))
    assert metrics["sampling/sampling_logp_difference/max"] < 1e-6

    again = dataclasses.replace(batch, rows=dataclasses.replace(as_sampled, old_logp_BT=logp))
    learner = dataclasses.replace(LEARNER, optimizer=optax.adam(1e-2), micro_batches=2)
    state = learner.init(jax.tree.map(jnp.copy, params))
    clipped = []
    for _ in range(3):
        state, metrics = step_grpo_step(learner, state, {}, again)
        clipped.append(float(metrics["clip_ratio/region_mean"]))
    assert clipped[0] == 0
    assert clipped[2] > 0.1


def test_the_denominator_may_span_several_updates(params):
    """As with dapo, where it counts the tokens of a whole generation."""
    learner = dataclasses.replace(LEARNER, loss=Loss(loss_type="dapo"))
    batch = make_train_batch()
    num_tokens = batch.rows.completions.mask_BT.sum()
    _, alone = updated(learner, params, batch)
    _, half = updated(learner, params, dataclasses.replace(batch, denominator=jnp.float32(2 * num_tokens)))
    assert half["loss"] == pytest.approx(alone["loss"] / 2, rel=1e-5)
    assert half["grad_norm"] == pytest.approx(alone["grad_norm"] / 2, rel=1e-4)


def test_permuted_prompts_give_the_same_update(params):
    batch = make_train_batch()
    order = np.array([2, 0, 3, 1])
    rows = (2 * order[:, None] + np.arange(2)).reshape(-1)
    permuted = TrainBatch(take(batch.prompts, list(order)), jax.tree.map(lambda leaf: leaf[rows], batch.rows))
    one, _ = updated(LEARNER, params, batch)
    other, _ = updated(LEARNER, params, permuted)
    assert distance(other.params, one.params, params) < 1e-5


def test_equal_rewards_give_no_gradient_but_the_kl(params):
    batch = make_train_batch()
    logp, _ = compute_logps(LEARNER, params, batch.prompts, batch.rows.completions)
    silent = dataclasses.replace(batch.rows, advantage_BT=np.zeros((8, 6), np.float32), ref_logp_BT=logp)
    _, metrics = updated(LEARNER, params, dataclasses.replace(batch, rows=silent))
    assert metrics["grad_norm"] < 1e-6
    pulled = dataclasses.replace(silent, ref_logp_BT=batch.rows.ref_logp_BT)
    _, metrics = updated(LEARNER, params, dataclasses.replace(batch, rows=pulled))
    assert metrics["grad_norm"] > 1e-3


def test_the_vision_tower_learns_from_every_row(params):
    """The gradient through the shared features is the one of a loss that runs the tower inside."""
    batch = make_train_batch()

    def loss(params):
        logp, _ = compute_logps(LEARNER, params, batch.prompts, batch.rows.completions)
        mask = batch.rows.completions.mask_BT
        return -jnp.mean(jnp.sum(logp * mask * batch.rows.advantage_BT, 1) / mask.sum(1))

    gradient = jax.grad(loss)(params)
    without_kl = dataclasses.replace(LEARNER, loss=Loss(beta=0.0), micro_batches=2)
    state, _ = updated(without_kl, params, batch)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
    assert distance(state.params, expected, params) < 1e-5
    assert optax.global_norm(gradient["visual"]) > 1e-3


def test_a_step_down_the_gradient_lowers_the_warmup_loss(params):
    warmup = SFTBatch(make_prompts(8), make_train_batch().rows.completions)
    learner = dataclasses.replace(LEARNER, optimizer=optax.adam(3e-3))
    state, first = sft_step(learner, learner.init(jax.tree.map(jnp.copy, params)), {}, warmup)
    for _ in range(10):
        state, last = sft_step(learner, state, {}, warmup)
    assert float(last["loss"]) < 0.7 * float(first["loss"])
    assert int(state.step) == 11


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_an_update_that_is_not_finite_is_skipped_and_counted(params, platform):
    """On a CPU by a branch, elsewhere number by number."""
    batch = make_train_batch()
    broken = dataclasses.replace(batch.rows, advantage_BT=np.full((8, 6), np.nan, np.float32))
    definition = dataclasses.replace(DEFINITION, platform=platform)
    learner = dataclasses.replace(LEARNER, definition=definition, optimizer=optax.adam(1e-2))
    state, metrics = updated(learner, params, dataclasses.replace(batch, rows=broken))
    assert metrics["num_skipped"] == 1
    jax.tree.map(np.testing.assert_array_equal, state.params, params)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, learner.optimizer.init(params))
    assert int(state.step) == 1
    state, metrics = step_grpo_step(learner, state, {}, batch)
    assert int(metrics["num_skipped"]) == 1
    assert distance(state.params, params, params) > 0


def test_a_gradient_that_overflows_is_skipped_although_the_loss_is_finite(params):
    batch = make_train_batch()
    steep = dataclasses.replace(batch.rows, advantage_BT=1e37 * batch.rows.advantage_BT)
    without_kl = dataclasses.replace(LEARNER, loss=Loss(beta=0.0))
    state, metrics = updated(without_kl, params, dataclasses.replace(batch, rows=steep))
    assert np.isfinite(metrics["loss"])
    assert metrics["grad_norm"] == np.inf
    assert metrics["num_skipped"] == 1
    jax.tree.map(np.testing.assert_array_equal, state.params, params)


def test_the_second_update_compiles_nothing(params):
    batch = make_train_batch(seed=1)
    state, _ = step_grpo_step(LEARNER, LEARNER.init(jax.tree.map(jnp.copy, params)), {}, batch)
    before = step_grpo_step._cache_size()
    step_grpo_step(LEARNER, state, {}, make_train_batch(seed=2))
    assert step_grpo_step._cache_size() == before


def test_an_update_holds_its_gradient_once_and_copies_no_moment(params):
    """With AdamW behind clipping, of a vocabulary so large that all else is small beside it."""
    config = dataclasses.replace(DEFINITION.config, vocab_size=20_000, tie_word_embeddings=False)
    definition = dataclasses.replace(DEFINITION, config=config)
    state = jax.eval_shape(lambda: definition.init(jax.random.key(0)))
    learner = Learner(definition, optimizer(Optim(), 10, state), chunk_size=16, loss=Loss(beta=0.04))
    state = jax.eval_shape(learner.init, state)
    compiled = step_grpo_step.lower(learner, state, {}, make_train_batch()).compile()
    gradient = 4 * sum(leaf.size for leaf in jax.tree.leaves(state.params))
    logits = 4 * learner.chunk_size * config.vocab_size
    memory = compiled.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < gradient + 3 * logits
    assert memory.alias_size_in_bytes > 2.9 * gradient
