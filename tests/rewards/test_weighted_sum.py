"""What completions earn under a configuration, who is asked about it, and where it is placed for step-level credit."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1vl_jax import rewards
from r1vl_jax.arrays import Completions
from r1vl_jax.config import Reward
from r1vl_jax.data.records import Record
from r1vl_jax.rewards import Verdict
from r1vl_jax.rewards.custom import Custom
from r1vl_jax.rewards.text import Vocabulary
from r1vl_jax.rewards.weighted_sum import RewardOutput, RewardSpec, assign_rewards_to_sections
from r1vl_jax.training.rewarder import Rewarder, TargetPacker

PATH = "### Image Description:\nA\n\n### Rationales:\nB\n\n### Step 1:\n8*6=48\n\n### The final answer is:\n53"


def test_sections_sum_to_the_total_and_the_rest_is_paid_last():
    records = [{"answer": "53", "key_steps": [["8*6=48"], ["48+5=53"]]}] * 2
    reward = rewards.score([PATH, "53"], records)
    weighted = 2.0 * reward.step_accuracy + 0.5 * reward.step_validity
    total = weighted - np.array([0.25, 0.0], np.float32)  # a penalty, say
    sections = assign_rewards_to_sections(reward, total, 2.0, np.ones((2, 3), np.int32))
    assert sections.section_end_BJ.shape == (2, 8)
    np.testing.assert_array_equal(sections.section_end_BJ[0, :3], reward.section_end_BJ[0])
    assert (sections.section_end_BJ[:, 3:] == -1).all()
    # A matched key step of two is worth 2 x 0.1 / 2, and stands in the second section; the answer is in the third.
    np.testing.assert_allclose(sections.section_reward_BJ[0, :3], [0.0, 0.1, 2.0 + 0.5 - 0.25], atol=1e-6)
    np.testing.assert_allclose(sections.section_reward_BJ.sum(1), total, atol=1e-6)


TEXTS = [PATH, PATH[:-2] + r"$\sqrt{2809}$", PATH[:-2] + "54", "x" * 400]
VOCABULARY = Vocabulary(np.cumsum([0, *map(len, TEXTS)]), np.frombuffer("".join(TEXTS).encode(), np.uint8))
COMPLETIONS = Completions(np.arange(4)[:, None], np.ones((4, 1), bool))
RECORD = Record("r", (), "?", "53", "53", (("8*6=48",),), "", "sum", "made up")


class Yes:
    """Takes every answer for right, and remembers which it was asked about."""

    def __init__(self):
        self.asked = []

    def decide(self, questions):
        self.asked += questions
        return [Verdict(True, "equal")] * len(questions)


def earned(judge=None, functions=(), **settings) -> RewardOutput:
    scheme = RewardSpec(Reward(max_bytes_per_token=300, **settings), functions)
    return Rewarder(scheme, VOCABULARY, judge)(COMPLETIONS, [RECORD] * 2)


def test_a_total_of_the_host_waits_for_no_device():
    class Untouched:
        def __getattr__(self, name):
            raise AssertionError(f"jnp.{name} of what is on the host")

    scheme = RewardSpec(Reward(reward_weights=(1.0, 0.0)), (Custom("brevity", len, 0.5, is_pure=False),))
    records = [{"answer": "53", "key_steps": [["8*6=48"]]}] * 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("r1vl_jax.training.rewarder.jnp", Untouched())
        reward = rewards.score(TEXTS, records, judge=Yes())
        total_B = scheme.total(reward, {"brevity": np.array([np.nan, 1.0, 2.0, 3.0], np.float32)})
    np.testing.assert_allclose(total_B - reward.step_accuracy, [0.0, 0.5, 1.0, 1.5])


def test_what_kernels_leave_undecided_goes_to_the_host():
    judge = Yes()
    by_kernels, by_reference = earned(judge, backend="kernels"), earned(Yes())
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), by_kernels.total_B, by_reference.total_B)
    np.testing.assert_allclose(by_kernels.total_B, [2.1, 2.1, 1.1, 0.0], rtol=1e-6)
    assert judge.asked == [("53", r"$\sqrt{2809}$")]
    np.testing.assert_array_equal(by_kernels.undecided_B, [False, True, False, True])
    np.testing.assert_array_equal(by_kernels.overflow_B, [False, False, False, True])


def test_or_stays_on_the_device():
    judge = Yes()
    alone = earned(judge, backend="kernels", undecided="wrong")
    np.testing.assert_allclose(alone.total_B, [2.1, 1.1, 1.1, 0.0], rtol=1e-6)
    assert judge.asked == []


def test_functions_of_both_kinds_are_weighed_and_may_not_apply():
    functions = (
        Custom("host", lambda prompts, completions, answer, **columns: [None, 1, 2, float(answer[0])], 10.0, False),
        Custom(
            "device", lambda byte_BU, length_B, key_steps, answers: jnp.where(length_B > 300, 1.0, jnp.nan), 0.5, True
        ),
    )
    with_functions = earned(Yes(), functions)
    np.testing.assert_array_equal(with_functions.custom["host"], [np.nan, 1, 2, 53])
    np.testing.assert_array_equal(with_functions.custom["device"], [np.nan, np.nan, np.nan, 1])
    np.testing.assert_allclose(with_functions.total_B, [2.1, 12.1, 21.1, 530.5], rtol=1e-6)


def test_arrays_of_questions_only_grow():
    pack = TargetPacker("paper")
    sizes = []
    for key_steps in ((("a",),), (("a", "b"), ("c" * 9,)), (("a",),), ()):
        packed = pack([replace(RECORD, key_steps=key_steps)])
        sizes.append(packed.key_steps.byte_BRAL.shape)
        assert packed.key_steps.num_groups_B == [len(key_steps)]
    assert sizes == [(1, 1, 1, 1), (1, 2, 2, 16), (1, 2, 2, 16), (1, 2, 2, 16)]


def test_what_comes_from_a_device_can_be_settled():
    records = [{"answer": "53", "key_steps": []}] * 2
    texts = [b"### The final answer is:\n53 cm", PATH.encode()]
    pack = rewards.pack(records, semantics="paper")
    byte_BU = np.zeros((2, 128), np.uint8)
    for row, text in enumerate(texts):
        byte_BU[row, : len(text)] = np.frombuffer(text, np.uint8)
    step_reward = jax.jit(partial(rewards.kernels.step_reward, semantics="paper", alpha=0.1))
    by_kernels = step_reward(byte_BU, np.array([len(text) for text in texts]), *pack)
    np.testing.assert_array_equal(by_kernels.undecided, [True, False])
    settled = rewards.resolve_undecided(by_kernels, texts, records, partial(rewards.score, judge=Yes()))
    np.testing.assert_allclose(settled.total, [1.0, 2.0])
    np.testing.assert_array_equal(by_kernels.undecided, [True, False])  # what was given is as it was
