"""Rewards of sampled completions under a configuration, and which answers the host decides."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from r1vl_jax.arrays import Completions
from r1vl_jax.config import Reward
from r1vl_jax.data.records import Record
from r1vl_jax.rewards import Verdict
from r1vl_jax.rewards.custom import RewardFunction
from r1vl_jax.rewards.text import Vocabulary
from r1vl_jax.rewards.weighted_sum import RewardOutput, RewardSpec
from r1vl_jax.training.rewarder import Rewarder, TargetPacker

PATH = "### Image Description:\nA\n\n### Rationales:\nB\n\n### Step 1:\n8*6=48\n\n### The final answer is:\n53"
TEXTS = [PATH, PATH[:-2] + r"$\sqrt{2809}$", PATH[:-2] + "54", "x" * 400]
VOCABULARY = Vocabulary(np.cumsum([0, *map(len, TEXTS)]), np.frombuffer("".join(TEXTS).encode(), np.uint8))
COMPLETIONS = Completions(np.arange(4)[:, None], np.ones((4, 1), bool))
RECORD = Record("r", (), "?", "53", "53", (("8*6=48",),), "", "sum", "made up")


class AcceptingJudge:
    """Accepts every answer, and records the pairs that it gets."""

    def __init__(self):
        self.pairs = []

    def verify(self, pairs):
        self.pairs += pairs
        return [Verdict(True, "equal")] * len(pairs)


def compute_rewards(judge=None, functions=(), **settings) -> RewardOutput:
    spec = RewardSpec(Reward(max_bytes_per_token=300, **settings), functions)
    return Rewarder(spec, VOCABULARY, judge)(COMPLETIONS, [RECORD] * 2)


def test_undecided_answers_go_to_the_host():
    judge = AcceptingJudge()
    by_kernels, by_strings = compute_rewards(judge, backend="kernels"), compute_rewards(AcceptingJudge())
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), by_kernels.total_B, by_strings.total_B)
    np.testing.assert_allclose(by_kernels.total_B, [2.1, 2.1, 1.1, 0.0], rtol=1e-6)
    assert judge.pairs == [("$53$", r"$\sqrt{2809}$")]
    np.testing.assert_array_equal(by_kernels.undecided_B, [False, True, False, True])
    np.testing.assert_array_equal(by_kernels.overflow_B, [False, False, False, True])


def test_undecided_answers_may_count_as_wrong():
    judge = AcceptingJudge()
    output = compute_rewards(judge, backend="kernels", undecided="wrong")
    np.testing.assert_allclose(output.total_B, [2.1, 1.1, 1.1, 0.0], rtol=1e-6)
    assert judge.pairs == []


def test_functions_of_both_kinds_are_weighted_and_may_not_apply():
    functions = (
        RewardFunction(
            "host", lambda prompts, completions, answer, **columns: [None, 1, 2, float(answer[0])], 10.0, False
        ),
        RewardFunction(
            "device", lambda byte_BU, length_B, key_steps, answers: jnp.where(length_B > 300, 1.0, jnp.nan), 0.5, True
        ),
    )
    output = compute_rewards(AcceptingJudge(), functions)
    np.testing.assert_array_equal(output.custom["host"], [np.nan, 1, 2, 53])
    np.testing.assert_array_equal(output.custom["device"], [np.nan, np.nan, np.nan, 1])
    np.testing.assert_allclose(output.total_B, [2.1, 12.1, 21.1, 530.5], rtol=1e-6)


def test_an_evaluation_has_the_reward_of_training():
    function = RewardFunction("host", lambda prompts, completions, **columns: [None, 1, 2, 3], 10.0, False)
    output = compute_rewards(AcceptingJudge(), [function])
    texts = [f"text {number}" for number in range(4)]
    rewarder = Rewarder(RewardSpec(Reward(), [function]), VOCABULARY, None)
    np.testing.assert_array_equal(rewarder.total(output.reward, texts, [RECORD] * 4), output.total_B)
    assert output.total_B[1] > 10


def test_host_functions_may_take_conversations_and_be_async():
    async def last_byte(prompts, completions, kind, **columns):
        assert prompts == [[{"role": "user", "content": "?"}]] * 4
        assert kind == ["sum"] * 4
        return [ord(completion[0]["content"][-1]) for completion in completions]

    functions = (RewardFunction("mine", last_byte, 1.0, False, completions="messages"),)
    output = compute_rewards(AcceptingJudge(), functions)
    np.testing.assert_array_equal(output.custom["mine"], [ord(text[-1]) for text in TEXTS])


def test_sizes_of_packed_targets_only_grow():
    pack = TargetPacker("paper")
    sizes = []
    for key_steps in ((("a",),), (("a", "b"), ("c" * 9,)), (("a",),), ()):
        packed = pack([replace(RECORD, key_steps=key_steps)])
        sizes.append(packed.key_steps.byte_BRAL.shape)
        assert packed.key_steps.num_groups_B == [len(key_steps)]
    assert sizes == [(1, 1, 1, 1), (1, 2, 2, 16), (1, 2, 2, 16), (1, 2, 2, 16)]
