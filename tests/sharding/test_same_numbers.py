"""Eight devices, in any arrangement, give the numbers of one: samples, scores, losses, gradients, updates."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small import DEFINITION, EOS, make_params, make_prompts

from r1vl_jax import config, sharding
from r1vl_jax.arrays import Completions, PackedVision, PromptBatch, TrainBatch, TrainRows
from r1vl_jax.config import Loss
from r1vl_jax.learner import Learner, score, step_grpo_step
from r1vl_jax.sampling.loop import Sampler, sample
from r1vl_jax.sampling.methods import Temperature

NUM_PROMPTS, NUM_GENERATIONS, LENGTH = 8, 2, 6
LEARNER = Learner(DEFINITION, optax.sgd(0.1), chunk_size=32, micro_batches=1, loss=Loss(beta=0.1))
SAMPLER = Sampler(DEFINITION, Temperature(1.0), NUM_GENERATIONS, LENGTH, (EOS,), (40, 41, 42, 43))
MESHES = [(8, 1, 1), (2, 2, 2)]
MORE_MESHES = [(1, 8, 1), (4, 1, 2), (1, 4, 2), (4, 2, 1), (2, 4, 1)]


def make_mesh(*sizes: int) -> jax.sharding.Mesh:
    return sharding.make_mesh(config.Mesh(*sizes), jax.devices()[: int(np.prod(sizes))])


def dealt(prompts: PromptBatch, num_shards: int) -> PromptBatch:
    """The pictures of the prompts, one after another, in several rows."""
    vision = prompts.vision
    deal = lambda array: array.reshape(num_shards, -1, *array.shape[2:])  # noqa: E731
    packed = PackedVision(*map(deal, (vision.patch_ZMC, vision.segment_ZM, vision.position_ZM2)))
    return PromptBatch(
        prompts.token_PS,
        prompts.mask_PS,
        prompts.position_3PS,
        prompts.feature_index_PS,
        prompts.next_position_P,
        prompts.prompt_id_P,
        packed,
    )


def make_batch() -> TrainBatch:
    rng = np.random.default_rng(0)
    shape = (NUM_PROMPTS * NUM_GENERATIONS, LENGTH)
    mask = np.arange(LENGTH)[None] < rng.integers(1, LENGTH + 1, shape[0])[:, None]
    logp = np.where(mask, -rng.uniform(1, 5, shape), 0).astype(np.float32)
    advantage = np.repeat(rng.normal(size=(shape[0], 1)), LENGTH, axis=1).astype(np.float32)
    completions = Completions(rng.integers(8, 40, shape).astype(np.int32), mask)
    prompts = dealt(make_prompts(NUM_PROMPTS), NUM_PROMPTS)
    return TrainBatch(prompts, TrainRows(completions, advantage, logp, logp))


def numbers(mesh: jax.sharding.Mesh):
    """All that a step computes, on these devices."""
    definition = dataclasses.replace(DEFINITION, mesh=mesh)
    learner, sampler = (dataclasses.replace(part, definition=definition) for part in (LEARNER, SAMPLER))
    params = make_params(scale=0.5)
    params = jax.device_put(params, sharding.shardings(params, mesh))
    batch = sharding.divide(make_batch(), mesh)
    rollout = sample(sampler, params, batch.prompts, jax.random.key(1))
    logp_BT, _ = score(learner, params, batch.prompts, batch.rows.completions)
    state = learner.init(jax.tree.map(jnp.copy, params))
    state, metrics = step_grpo_step(learner, jax.device_put(state, sharding.shardings(state, mesh)), {}, batch)
    return rollout, logp_BT, state.params, metrics


@pytest.fixture(scope="module")
def alone():
    return numbers(make_mesh(1, 1, 1))


@pytest.mark.parametrize("sizes", [*MESHES, *(pytest.param(sizes, marks=pytest.mark.slow) for sizes in MORE_MESHES)])
def test_the_numbers_of_one_device(alone, sizes):
    mesh = make_mesh(*sizes)
    rollout, logp_BT, params, metrics = numbers(mesh)
    expected_rollout, expected_logp_BT, expected_params, expected_metrics = alone
    np.testing.assert_array_equal(rollout.completions.token_BT, expected_rollout.completions.token_BT)
    np.testing.assert_allclose(rollout.logp_BT, expected_rollout.logp_BT, atol=1e-5)
    np.testing.assert_allclose(logp_BT, expected_logp_BT, atol=1e-5)
    start = make_params(scale=0.5)
    update, difference = (
        float(optax.global_norm(jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), expected_params, other)))
        for other in (start, params)
    )
    assert difference < 1e-5 * update
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(
        {name: float(value) for name, value in expected_metrics.items()}, rel=1e-4, abs=1e-6
    )
    wanted = jax.tree.leaves(sharding.shardings(params, mesh))
    for leaf, placement in zip(jax.tree.leaves(params), wanted, strict=True):
        assert leaf.sharding.is_equivalent_to(placement, leaf.ndim)  # an update leaves everything in its place


def test_each_device_has_its_own_rows_and_pictures():
    batch = sharding.divide(make_batch(), make_mesh(2, 4, 1))
    prompts = batch.prompts
    for array, num_rows in ((prompts.token_PS, 1), (batch.rows.advantage_BT, 2), (prompts.vision.patch_ZMC, 1)):
        assert len({str(shard.index) for shard in array.addressable_shards}) == 8
        assert all(shard.data.shape[0] == num_rows for shard in array.addressable_shards)
    assert all(shard.data.shape[1] == 1 for shard in prompts.position_3PS.addressable_shards)
