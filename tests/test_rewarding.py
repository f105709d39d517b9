"""Where rewards are placed for step-level credit."""

import numpy as np

from r1vl_jax import rewards
from r1vl_jax.rewarding import place_rewards

PATH = "### Image Description:\nA\n\n### Rationales:\nB\n\n### Step 1:\n8*6=48\n\n### The final answer is:\n53"


def test_sections_sum_to_the_total_and_the_rest_is_paid_last():
    records = [{"answer": "53", "key_steps": [["8*6=48"], ["48+5=53"]]}] * 2
    reward = rewards.score([PATH, "53"], records)
    weighted = 2.0 * reward.step_accuracy + 0.5 * reward.step_validity
    total = weighted - np.array([0.25, 0.0], np.float32)  # a penalty, say
    sections = place_rewards(reward, total, 2.0, np.ones((2, 3), np.int32))
    assert sections.section_end_BJ.shape == (2, 8)
    np.testing.assert_array_equal(sections.section_end_BJ[0, :3], reward.section_end_BJ[0])
    assert (sections.section_end_BJ[:, 3:] == -1).all()
    # A matched key step of two is worth 2 x 0.1 / 2, and stands in the second section; the answer is in the third.
    np.testing.assert_allclose(sections.section_reward_BJ[0, :3], [0.0, 0.1, 2.0 + 0.5 - 0.25], atol=1e-6)
    np.testing.assert_allclose(sections.section_reward_BJ.sum(1), total, atol=1e-6)
