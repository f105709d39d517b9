"""Weighted totals of host and device rewards, and their assignment to sections for step-level credit."""

import numpy as np
import pytest

from r1vl_jax import rewards
from r1vl_jax.config import Reward
from r1vl_jax.rewards.custom import RewardFunction
from r1vl_jax.rewards.weighted_sum import RewardSpec, assign_rewards_to_sections

PATH = "### Image Description:\nA\n\n### Rationales:\nB\n\n### Step 1:\n8*6=48\n\n### The final answer is:\n53"


def test_sections_sum_to_the_total_and_the_last_gets_the_rest():
    records = [{"answer": "53", "key_steps": [["8*6=48"], ["48+5=53"]]}] * 2
    reward = rewards.score([PATH, "53"], records)
    weighted = 2.0 * reward.step_accuracy + 0.5 * reward.step_validity
    total = weighted - np.array([0.25, 0.0], np.float32)  # such as an overlong penalty
    sections = assign_rewards_to_sections(reward, total, 2.0, np.ones((2, 3), np.int32))
    assert sections.section_end_BJ.shape == (2, 8)
    np.testing.assert_array_equal(sections.section_end_BJ[0, :3], reward.section_end_BJ[0])
    assert (sections.section_end_BJ[:, 3:] == -1).all()
    # One matched key step of two counts 2 x 0.1 / 2, in the second section; the answer counts in the third.
    np.testing.assert_allclose(sections.section_reward_BJ[0, :3], [0.0, 0.1, 2.0 + 0.5 - 0.25], atol=1e-6)
    np.testing.assert_allclose(sections.section_reward_BJ.sum(1), total, atol=1e-6)


def test_a_total_of_host_arrays_waits_for_no_device():
    class Untouched:
        def __getattr__(self, name):
            raise AssertionError(f"jnp.{name} of host arrays")

    spec = RewardSpec(Reward(reward_weights=(1.0, 0.0)), (RewardFunction("brevity", len, 0.5, runs_on_device=False),))
    reward = rewards.score([PATH] * 4, [{"answer": "53", "key_steps": [["8*6=48"]]}] * 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("r1vl_jax.rewards.weighted_sum.jnp", Untouched())
        total_B = spec.total(reward, {"brevity": np.array([np.nan, 1.0, 2.0, 3.0], np.float32)})
    np.testing.assert_allclose(total_B - reward.step_accuracy, [0.0, 0.5, 1.0, 1.5], rtol=1e-6)
