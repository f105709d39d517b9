"""Group-relative advantages."""

from functools import partial

import jax
import numpy as np
import pytest

from r1vl_jax import losses


def test_standardises_with_one_degree_of_freedom():
    reward = np.array([[0.0, 1.0, 2.0, 1.1], [2.1, 0.05, 0.0, 1.0]], np.float32)
    expected = (reward - reward.mean(1, keepdims=True)) / (reward.std(1, ddof=1, keepdims=True) + 1e-4)
    np.testing.assert_allclose(losses.group_advantage(reward), expected, atol=1e-6)


def test_known_numbers():
    """The mean of (0, 2) is 1, the standard deviation the square root of 2."""
    np.testing.assert_allclose(losses.group_advantage(np.array([[0.0, 2.0]])), [[-0.70706, 0.70706]], atol=1e-5)


def test_none_only_subtracts_the_mean():
    advantage = losses.group_advantage(np.array([[0.0, 2.0, 4.0]], np.float32), scale_rewards="none")
    np.testing.assert_allclose(advantage, [[-2.0, 0.0, 2.0]])


def test_batch_divides_by_the_std_of_all_rewards():
    reward = np.array([[0.0, 1.0, 2.0], [2.0, 2.0, 2.0], [0.0, 0.0, 0.3]], np.float32)
    expected = (reward - reward.mean(1, keepdims=True)) / (reward.std(ddof=1) + 1e-4)
    np.testing.assert_allclose(losses.group_advantage(reward, scale_rewards="batch"), expected, atol=1e-6)


@pytest.mark.parametrize("num_generations", range(2, 17))
@pytest.mark.parametrize("scale_rewards", ["group", "batch", "none"])
def test_equal_rewards_give_exact_zeros(num_generations, scale_rewards):
    rewards = np.array([0.1, 1.05, 1.1, 2.0666666, 1 / 3, 7e6], np.float32)
    equal = np.tile(rewards[:, None], num_generations)
    advantage = jax.jit(partial(losses.group_advantage, scale_rewards=scale_rewards))
    assert np.count_nonzero(advantage(equal)) == 0


@pytest.mark.parametrize("scale_rewards", ["group", "batch", "none"])
def test_equal_rewards_give_exact_zeros_without_epsilon(scale_rewards):
    advantage = losses.group_advantage(np.full((3, 4), 1.1), scale_rewards=scale_rewards, epsilon=0.0)
    assert np.count_nonzero(advantage) == 0


def test_groups_are_independent():
    reward = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    for group in range(3):
        alone = losses.group_advantage(reward[group : group + 1])
        np.testing.assert_allclose(losses.group_advantage(reward)[group : group + 1], alone, atol=1e-6)


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match=r"at least 2 samples.*shape \(3, 1\).*num_generations"):
        losses.group_advantage(np.zeros((3, 1)))


def test_an_unknown_scale_is_refused():
    with pytest.raises(ValueError, match=r"scale_rewards='row'.*\('group', 'batch', 'none'\)"):
        losses.group_advantage(np.zeros((3, 2)), scale_rewards="row")


@pytest.mark.parametrize("scale_rewards", ["group", "batch", "none"])
def test_the_gradient_of_equal_rewards_is_finite(scale_rewards):
    reward = np.array([[1.0, 1.0], [0.0, 2.0]], np.float32)
    gradient = jax.grad(lambda r: losses.group_advantage(r, scale_rewards=scale_rewards)[0, 0])(reward)
    assert np.isfinite(gradient).all()
