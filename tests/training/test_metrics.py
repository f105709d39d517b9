"""Figures of a step by hand: two prompts of three samples."""

import numpy as np
import pytest

from r1vl_jax import rewards
from r1vl_jax.arrays import Completions
from r1vl_jax.rewards.weighted_sum import RewardOutput
from r1vl_jax.training.metrics import completion_metrics, completion_stats, repetition, reward_metrics

RIGHT = "### Image Description:\n1\n\n### Rationales:\nr\n\n### Step 1:\n1+1=2\n\n### The final answer is:\n2"
WRONG = RIGHT[:-1] + "3"


def test_reward_metrics():
    records = [{"answer": "2", "key_steps": [["1+1=2"]]}] * 6
    reward = rewards.score([RIGHT, WRONG, "2", RIGHT, RIGHT, RIGHT], records)
    reward_PG = np.array([[2.1, 1.1, 0.0], [2.1, 2.1, 2.1]])
    custom = {"short": np.float32([1, np.nan, 3, np.nan, np.nan, 2]), "never": np.full(6, np.nan, np.float32)}
    undecided, overflow = np.arange(6) == 1, np.arange(6) < 3
    metrics = reward_metrics(RewardOutput(reward, custom, reward_PG.reshape(-1), undecided, overflow), reward_PG)
    assert metrics["reward"] == pytest.approx(9.5 / 6)
    assert metrics["reward_std"] == pytest.approx(np.sqrt(np.sum((reward_PG - 9.5 / 6) ** 2) / 5))
    assert metrics["reward_group_std"] == pytest.approx(np.std([2.1, 1.1, 0.0], ddof=1) / 2)
    assert metrics["frac_reward_zero_std"] == 0.5
    assert metrics["rewards/answer_correct/mean"] == pytest.approx(4 / 6)
    assert metrics["rewards/step_validity/mean"] == metrics["rewards/complete/mean"] == pytest.approx(5 / 6)
    assert metrics["rewards/step_accuracy/mean"] == pytest.approx((4 * 1.1 + 0.1) / 6)
    assert metrics["rewards/key_step_match/std"] == pytest.approx(np.std([1, 1, 0, 1, 1, 1], ddof=1))
    assert metrics["rewards/undecided/mean"] == pytest.approx(1 / 6)
    assert metrics["rewards/overflow/mean"] == 0.5
    assert (metrics["rewards/short/mean"], metrics["rewards/short/std"]) == (2.0, 1.0)  # of those it applies to
    assert not any("never" in name for name in metrics)
    assert all(type(value) is float for value in metrics.values())


def completions(lengths: list[int]) -> Completions:
    """Rows of different tokens."""
    return Completions(np.tile(np.arange(9), (len(lengths), 1)), np.arange(9)[None] < np.array(lengths)[:, None])


@pytest.mark.parametrize(
    ("tokens", "fraction"),
    [
        ([1, 2, 3, 4, 5, 6], 0.0),
        ([1, 2, 3, 4, 1, 2, 3, 4], 1 / 5),  # of five runs, the last was there
        ([7] * 10, 6 / 7),
        ([7] * 4, 0.0),
        ([], 0.0),
    ],
)
def test_repetition(tokens, fraction):
    assert repetition(np.array(tokens, np.int32)) == pytest.approx(fraction)


def test_repetition_stops_at_the_end_of_a_completion():
    padded = Completions(np.zeros((2, 9), np.int32), np.arange(9)[None] < np.array([[9], [4]]))
    metrics = completion_metrics(completion_stats(padded, np.ones(2, bool)))
    assert metrics["completions/repetition"] == pytest.approx(5 / 6 / 2)


def test_completion_metrics():
    metrics = completion_metrics(completion_stats(completions([4, 9, 2, 9]), np.array([True, False, True, False])))
    assert metrics == {
        "completions/clipped_ratio": 0.5,
        "completions/repetition": 0.0,
        "completions/mean_length": 6.0,
        "completions/min_length": 2.0,
        "completions/max_length": 9.0,
        "completions/mean_terminated_length": 3.0,
        "completions/min_terminated_length": 2.0,
        "completions/max_terminated_length": 4.0,
    }


def test_completions_none_of_which_ended():
    metrics = completion_metrics(completion_stats(completions([9, 9]), np.array([False, False])))
    assert metrics["completions/clipped_ratio"] == 1.0
    assert metrics["completions/mean_terminated_length"] == 0.0
