"""Step-level credit against its formula row by row, and its reduction to trajectory credit."""

import jax
import numpy as np
import pytest

from r1vl_jax import losses

P, G, J, T = 3, 4, 5, 9


@pytest.fixture
def paths():
    """Rewards of sections, sections of tokens, and numbers of sections, of P * G rows."""
    rng = np.random.default_rng(0)
    num_sections = rng.integers(1, J + 1, P * G)
    reward = np.where(np.arange(J)[None] < num_sections[:, None], rng.uniform(0, 1, (P * G, J)), 0.0)
    section = np.minimum(np.arange(T)[None] // 2, num_sections[:, None] - 1)
    return reward.astype(np.float32), section, num_sections


def formula(reward, section, num_sections):
    advantage = np.zeros(section.shape)
    reward_to_go = np.cumsum(reward[:, ::-1].astype(np.float64), axis=1)[:, ::-1]
    for i in range(P * G):
        group = range(i // G * G, i // G * G + G)
        std = np.std(reward[list(group)].sum(1), ddof=1)
        for t in range(T):
            j = section[i, t]
            others = [reward_to_go[k, min(j, num_sections[k] - 1)] for k in group]
            advantage[i, t] = (reward_to_go[i, j] - np.mean(others)) / (std + 1e-4)
    return advantage


def test_advantage_is_the_formula(paths):
    advantage = losses.step_advantage(*paths, num_generations=G)
    np.testing.assert_allclose(advantage, formula(*paths), atol=1e-5)


@pytest.mark.parametrize("scale_rewards", ["group", "batch", "none"])
def test_reward_in_last_sections_equals_trajectory_credit_exactly(paths, scale_rewards):
    reward, section, num_sections = paths
    total = reward.sum(1)
    reward = np.where(np.arange(J)[None] == num_sections[:, None] - 1, total[:, None], 0).astype(np.float32)
    advantage = losses.step_advantage(reward, section, num_sections, num_generations=G, scale_rewards=scale_rewards)
    of_rows = losses.group_advantage(total.reshape(P, G), scale_rewards=scale_rewards).reshape(-1)
    np.testing.assert_array_equal(advantage, np.tile(of_rows[:, None], T))


def test_a_token_gets_no_credit_for_earlier_sections():
    """Both rows get 1 in section 1; row 0 gets 0.5 more in section 0: only that section has an advantage."""
    reward = np.array([[0.5, 1.0], [0.0, 1.0]], np.float32)
    advantage = losses.step_advantage(reward, np.array([[0, 1]] * 2), np.array([2, 2]), num_generations=2)
    np.testing.assert_allclose(advantage, [[0.7069, 0.0], [-0.7069, 0.0]], atol=1e-4)


def test_equal_totals_give_exact_zeros_whatever_their_sections():
    reward = np.array([[0.5, 1.0], [1.5, 0.0]], np.float32)
    section, num_sections = np.array([[0, 1]] * 2), np.array([2, 2])
    for epsilon in (1e-4, 0.0):
        advantage = losses.step_advantage(reward, section, num_sections, num_generations=2, epsilon=epsilon)
        assert np.count_nonzero(advantage) == 0


def test_totals_that_differ_by_rounding_only_are_equal():
    """Thirds of a reward in different sections of the rows: the sums differ in the last bit."""
    reward = np.array([[0.1 / 3] * 3, [0.0, 0.0, 0.1]], np.float32)
    assert np.count_nonzero(losses.step_advantage(reward, np.zeros((2, 1), int), np.array([3, 3]), num_generations=2))
    section, num_sections = np.array([[0, 1, 2]] * 2), np.array([3, 3])
    total_PG = np.float32([[0.1, 0.1]])
    advantage = losses.step_advantage(reward, section, num_sections, num_generations=2, reward_PG=total_PG)
    assert np.count_nonzero(advantage) == 0


def test_padding_sections_change_nothing(paths):
    reward, section, num_sections = paths
    wide = losses.step_advantage(np.pad(reward, ((0, 0), (0, 3))), section, num_sections, num_generations=G)
    np.testing.assert_allclose(wide, losses.step_advantage(*paths, num_generations=G), atol=1e-6)


def test_groups_of_one_are_refused(paths):
    with pytest.raises(ValueError, match=r"step_advantage: a group needs at least 2 samples.*\(12, 1\)"):
        losses.step_advantage(*paths, num_generations=1)


def test_section_of_token():
    """Sections of 5, 3 and 2 bytes: a token belongs where it begins, one without text at the end to the last one."""
    section_end = np.array([[5, 8, 10, -1], [4, -1, -1, -1]], np.int32)
    size = np.array([[2, 3, 2, 2, 1, 0], [3, 1, 0, 7, 7, 7]], np.int32)
    section, num_sections = jax.jit(losses.section_of_token)(section_end, size)
    np.testing.assert_array_equal(section, [[0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(num_sections, [3, 1])
