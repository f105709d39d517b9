"""From rewards to what an update knows of each row, under every setting that changes it."""

import numpy as np
import pytest

from r1vl_jax import losses
from r1vl_jax.arrays import Completions, RewardSections, SampledRows
from r1vl_jax.config import Loss
from r1vl_jax.learner.advantages import GroupRewards, compute_advantages, turn_advantages

REWARD = np.array([[0.0, 1.0], [2.0, 2.5]], np.float32)


@pytest.fixture
def sampled():
    mask = np.arange(4)[None] < np.array([4, 3, 2, 4])[:, None]
    logp, policy_logp, entropy, ref_logp = np.random.default_rng(0).uniform(0.1, 2, (4, 4, 4)).astype(np.float32)
    has_ended = np.array([True, True, True, False])
    return SampledRows(Completions(np.ones((4, 4), np.int32), mask), has_ended, -logp, -policy_logp, entropy, -ref_logp)


def test_one_advantage_for_a_completion(sampled):
    rows = compute_advantages(Loss(scale_rewards="batch"), sampled, GroupRewards(REWARD, None))
    wanted = losses.group_advantage(REWARD, scale_rewards="batch").reshape(-1, 1)
    np.testing.assert_allclose(rows.advantage_BT, np.tile(wanted, 4), rtol=1e-6)
    assert rows.old_logp_BT is None
    assert rows.weight_BT is None
    np.testing.assert_array_equal(rows.completions.mask_BT, sampled.completions.mask_BT)


def test_one_advantage_for_a_section(sampled):
    """The first group's second sample earns all in its first section of two; tokens are of two bytes."""
    reward = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, 2.5]], np.float32)
    sections = RewardSections(np.array([[4, 8]] * 4, np.int32), reward, np.full((4, 4), 2, np.int32))
    advantage = compute_advantages(Loss(credit="step"), sampled, GroupRewards(REWARD, sections)).advantage_BT
    np.testing.assert_allclose(advantage[1], [0.707, 0.707, 0, 0], atol=1e-3)
    np.testing.assert_allclose(advantage[3], [0.707] * 4, atol=1e-3)


def test_truncated_completions_leave_the_loss(sampled):
    rows = compute_advantages(Loss(mask_truncated_completions=True), sampled, GroupRewards(REWARD, None))
    assert not rows.completions.mask_BT[3].any()
    np.testing.assert_array_equal(rows.completions.mask_BT[:3], sampled.completions.mask_BT[:3])


@pytest.mark.parametrize("level", ["trajectory", "step"])
def test_weights_are_those_of_egsw(sampled, level):
    rows = compute_advantages(
        Loss(egsw_level=level, egsw_entropy_weight=0.3, egsw_temperature=2.0), sampled, GroupRewards(REWARD, None)
    )
    wanted = losses.egsw_weight(
        losses.group_advantage(REWARD).reshape(-1),
        sampled.entropy_BT,
        sampled.completions.mask_BT,
        num_generations=2,
        entropy_weight=0.3,
        temperature=2.0,
        level=level,
    )
    np.testing.assert_allclose(rows.weight_BT, wanted, rtol=1e-5)


def test_later_updates_know_the_policy_that_sampled(sampled):
    rows = compute_advantages(Loss(num_iterations=2), sampled, GroupRewards(REWARD, None))
    np.testing.assert_array_equal(rows.old_logp_BT, sampled.policy_logp_BT)


TURN_REWARDS = [[0.5, 0.0], [0.0], [], [0.0, 1.0, 0.0]]  # of two samples of two records
END = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)


def test_all_turns_of_an_episode_have_the_advantage_of_its_total():
    advantages = turn_advantages(Loss(), END, TURN_REWARDS)
    (first, second), (third, fourth) = np.asarray(losses.group_advantage(np.array([[1.5, 0.0], [0.0, 2.0]])))
    for actual, expected in zip(advantages, [[first] * 2, [second], [], [fourth] * 3], strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)
    assert third == -fourth


def test_a_turn_has_the_advantage_of_the_rewards_from_it_on():
    """Rewards to go of the first record: 1.5, 1.0 and 0; of the second: 0 and 2, 2, 1, where one has no turns."""
    advantages = turn_advantages(Loss(credit="step", scale_rewards="none"), END, TURN_REWARDS)
    for actual, expected in zip(advantages, [[0.75, 0.5], [-0.75], [], [1.0, 1.0, 0.5]], strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)
