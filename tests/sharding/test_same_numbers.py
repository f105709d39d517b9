"""Eight devices on any mesh give the numbers of one: samples, log-probs, rewards, losses, gradients, updates."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest
from helpers.small import DEFINITION, EOS, VOCABULARY, in_rows, make_adapter, make_params, make_prompts, make_records

from r1vl_jax import rewards
from r1vl_jax.arrays import PromptBatch
from r1vl_jax.config import Loss, Mesh, Reward
from r1vl_jax.learner.fused_step import FusedProgram, fused_step
from r1vl_jax.learner.learner import Learner
from r1vl_jax.models.lora import LoRA
from r1vl_jax.models.trainable import combine
from r1vl_jax.rewards.weighted_sum import RewardSpec
from r1vl_jax.sampling.methods import Temperature
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.sharding import rules
from r1vl_jax.sharding.batch import shard_batch
from r1vl_jax.sharding.mesh import make_mesh as mesh_of_devices
from r1vl_jax.training.rewarder import TargetPacker

NUM_PROMPTS = 8
LORA = dataclasses.replace(DEFINITION, lora=LoRA(2, 4.0, ("q_proj", "o_proj", "down_proj", "qkv", "mlp_2")))
REWARD_SPEC = RewardSpec(Reward(semantics="released", backend="kernels", undecided="wrong", alpha=0.5))
# Every mesh of eight devices whose tensor divides the model's two KV heads; the first two are fast enough for CI.
MESHES = [(2, 2, 2), (8, 1, 1), (1, 8, 1), (4, 1, 2), (1, 4, 2), (4, 2, 1), (2, 4, 1)]


def make_mesh(*sizes: int) -> jax.sharding.Mesh:
    return mesh_of_devices(Mesh(*sizes), jax.devices()[: int(np.prod(sizes))])


def with_images_of_the_next_prompt(prompts: PromptBatch) -> PromptBatch:
    """Every prompt has the image of the next one, whose features are often on another device."""
    index_PS = prompts.feature_index_PS
    others_PS = np.where(index_PS >= 0, (index_PS + 1) % len(index_PS), -1).astype(np.int32)
    return dataclasses.replace(in_rows(prompts), feature_index_PS=others_PS)


def make_policy(has_lora: bool):
    """Trained parameters, frozen parameters, and those of the reference."""
    base = make_params(scale=0.5)
    if not has_lora:
        return base, {}, make_params(seed=1, scale=0.5)
    return make_adapter(LORA), base, combine(make_adapter(LORA, seed=1), base)


def train_step(sizes: tuple[int, int, int], has_lora: bool):
    """A fused step on these devices: what it generated, trained parameters before and after, metrics."""
    mesh = make_mesh(*sizes)
    definition = dataclasses.replace(LORA if has_lora else DEFINITION, mesh=mesh)
    # A step of plain SGD is the gradient times a constant.
    learner = Learner(definition, optax.sgd(0.1), chunk_size=32, micro_batches=2, loss=Loss(beta=0.1))
    learner = dataclasses.replace(learner, gradient_cosine=not has_lora)
    sampler = Sampler(definition, Temperature(1.0), 2, 12, (EOS,), (40, 41, 42, 43))
    trained, frozen, reference = (
        jax.device_put(params, rules.shardings(params, mesh)) for params in make_policy(has_lora)
    )
    state = learner.init(trained)
    state = jax.device_put(state, rules.shardings(state, mesh))
    prompts, questions = (
        shard_batch(batch, mesh)
        for batch in (
            with_images_of_the_next_prompt(make_prompts(NUM_PROMPTS)),
            TargetPacker("released")(make_records(NUM_PROMPTS)),
        )
    )
    before = jax.device_get(trained)
    arguments = (state, frozen, reference, prompts, questions, VOCABULARY, jax.random.key(1))
    lowered = fused_step.lower(FusedProgram(learner, sampler, REWARD_SPEC), *arguments)
    step = lowered.compile(compiler_options={"xla_backend_optimization_level": 0})  # compiles in a third of the time
    state, metrics, generated = step(*arguments)
    return generated, before, state.params, metrics


@functools.cache
def single_device(has_lora: bool):
    return train_step((1, 1, 1), has_lora)


@pytest.mark.parametrize("has_lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize(
    "sizes", [*MESHES[:2], *(pytest.param(sizes, marks=pytest.mark.slow) for sizes in MESHES[2:])], ids=str
)
def test_a_step_equals_that_of_one_device(sizes, has_lora):
    generated, before, params, metrics = train_step(sizes, has_lora)
    expected, _, expected_params, expected_metrics = single_device(has_lora)
    actual, wanted = (each.sampled.completions for each in (generated, expected))
    np.testing.assert_array_equal(actual.mask_BT, wanted.mask_BT)
    np.testing.assert_array_equal(*(np.where(wanted.mask_BT, each.token_BT, 0) for each in (actual, wanted)))
    for name in ("sampling_logp_BT", "ref_logp_BT"):
        actual, wanted = (getattr(each.sampled, name) for each in (generated, expected))
        np.testing.assert_allclose(actual, wanted, atol=1e-5, err_msg=name)
    assert np.ptp(expected.rewards.reward.total) > 0
    for field in dataclasses.fields(rewards.StepReward):
        actual, wanted = (getattr(each.rewards.reward, field.name) for each in (generated, expected))
        np.testing.assert_allclose(actual, wanted, atol=1e-6, err_msg=field.name)
    gradient, difference = (
        float(optax.global_norm(jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), expected_params, other)))
        for other in (before, params)
    )
    assert gradient > 1e-3
    assert difference < 1e-5 * gradient
    assert ("gradient_cosine" in metrics) == (not has_lora)
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(
        {name: float(value) for name, value in expected_metrics.items()}, rel=1e-4, abs=1e-6
    )
    wanted = jax.tree.leaves(rules.shardings(params, make_mesh(*sizes)))
    for leaf, sharding in zip(jax.tree.leaves(params), wanted, strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)  # an update keeps the shardings


def test_each_device_has_rows_and_images_of_its_own():
    prompts = shard_batch(in_rows(make_prompts(NUM_PROMPTS)), make_mesh(2, 4, 1))
    for array in (prompts.token_PS, prompts.vision.patch_ZMC):
        assert len({str(shard.index) for shard in array.addressable_shards}) == 8
        assert all(shard.data.shape[0] == 1 for shard in array.addressable_shards)
    assert all(shard.data.shape[1] == 1 for shard in prompts.position_3PS.addressable_shards)
