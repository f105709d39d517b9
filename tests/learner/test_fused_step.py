"""One program for a whole step, against the staged loop: same tokens, same rewards, same update."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.small import DEFINITION, EOS, VOCABULARY, make_params, make_prompts, make_records

from r1vl_jax.arrays import TrainBatch
from r1vl_jax.config import Loss, Reward
from r1vl_jax.learner.advantages import compute_advantages, compute_group_rewards
from r1vl_jax.learner.fused_step import FusedProgram, fused_step
from r1vl_jax.learner.learner import Learner
from r1vl_jax.learner.logprobs import add_reference_logps
from r1vl_jax.learner.steps import step_grpo_step
from r1vl_jax.rewards import StepReward
from r1vl_jax.rewards.custom import RewardFunction
from r1vl_jax.rewards.weighted_sum import RewardSpec
from r1vl_jax.sampling.loop import sample
from r1vl_jax.sampling.methods import Temperature
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.training.rewarder import Rewarder, TargetPacker

RECORDS = make_records(3)
KEY = jax.random.key(3)


def shortness(byte_BU, length_B, key_steps, answers):
    return -length_B / 50.0


REWARD_SPEC = RewardSpec(
    Reward(semantics="released", backend="kernels", undecided="wrong", alpha=0.5),
    (RewardFunction("shortness", shortness, 0.3, runs_on_device=True),),
)


def make_program(loss: Loss) -> FusedProgram:
    sampler = Sampler(DEFINITION, Temperature(1.0), 4, 12, (EOS,), (40, 41, 42, 43))
    return FusedProgram(Learner(DEFINITION, optax.sgd(0.1), chunk_size=16, loss=loss), sampler, REWARD_SPEC)


def staged(program: FusedProgram, params, reference, prompts):
    """The stages one after another, each a program of its own."""
    learner = program.learner
    rollout = sample(program.sampler, params, prompts, KEY)
    sampled = add_reference_logps(learner, params, reference, prompts, rollout)
    rewards = Rewarder(program.reward_spec, VOCABULARY, None)(rollout.completions, RECORDS)
    group_rewards = compute_group_rewards(
        learner.loss, program.reward_spec, rewards, rollout.completions, VOCABULARY, num_generations=4
    )
    rows = compute_advantages(learner.loss, sampled, group_rewards)
    state = learner.init(jax.tree.map(jnp.copy, params))
    state, metrics = step_grpo_step(learner, state, {}, TrainBatch(prompts, rows))
    return state, metrics, rollout, rewards


def test_the_fused_step_is_the_staged_one():
    loss = Loss(beta=0.1, credit="step", egsw_level="step", soft_punish_cache=4, epsilon_high=0.28)
    program, params, prompts = make_program(loss), make_params(scale=0.5), make_prompts(3)
    reference = make_params(seed=1, scale=0.5)
    expected, expected_metrics, rollout, wanted_rewards = staged(program, params, reference, prompts)

    state = program.learner.init(jax.tree.map(jnp.copy, params))
    arguments = (state, {}, reference, prompts, TargetPacker("released")(RECORDS), VOCABULARY, KEY)
    lowered = fused_step.lower(program, *arguments)
    assert "callback" not in lowered.as_text()  # nothing is asked of the host
    state, metrics, output = lowered.compile()(*arguments)

    np.testing.assert_array_equal(output.sampled.completions.token_BT, rollout.completions.token_BT)
    assert np.ptp(wanted_rewards.reward.total) > 0
    for field in dataclasses.fields(StepReward):
        actual, wanted = (getattr(reward, field.name) for reward in (output.rewards.reward, wanted_rewards.reward))
        np.testing.assert_allclose(actual, wanted, atol=1e-6, err_msg=field.name)
    np.testing.assert_allclose(output.rewards.custom["shortness"], wanted_rewards.custom["shortness"], rtol=1e-6)
    difference, update = (
        optax.global_norm(jax.tree.map(jnp.subtract, expected.params, other)) for other in (state.params, params)
    )
    assert float(update) > 1e-3
    assert float(difference / update) < 1e-5
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(
        {name: float(value) for name, value in expected_metrics.items()}, rel=1e-4, abs=1e-6
    )
