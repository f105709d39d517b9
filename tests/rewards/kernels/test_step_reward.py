"""The kernels against the definition on strings: every field of every row that is not undecided."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import reward_texts as texts
from helpers.answer_cases import read_cases
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from r1vl_jax import response_format, rewards
from r1vl_jax.arrays import check_shapes
from r1vl_jax.rewards.kernels.headings import MAX_HEADINGS

NUM_ROWS, WIDTH = 64, 512
SIZES = {"max_groups": 4, "max_alternatives": 3, "max_length": 256}
RECORD = {"answer": "7", "key_steps": [["3+4=7", "3 plus 4"], ["two digits"], ["prime"]]}
PATH = response_format.compose("Two digits.", "Add them.", ["3 + 4 = 7.", "7 is prime."], "7")
SEMANTICS = ("paper", "released")

step_reward = jax.jit(rewards.kernels.step_reward, static_argnames="semantics")


def to_rows(completions: list[bytes], width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    byte_BU = np.zeros((len(completions), width), np.uint8)
    for row, completion in enumerate(completions):
        byte_BU[row, : len(completion)] = np.frombuffer(completion[:width], np.uint8)
    return byte_BU, np.array([len(completion) for completion in completions], np.int32)


def score(completions: list[bytes], records: list[dict], semantics: str) -> rewards.StepReward:
    """Scores a few rows, always in arrays of the same shape."""
    padding = NUM_ROWS - len(completions)
    key_steps, answers = rewards.pack([*records, *[RECORD] * padding], semantics=semantics, **SIZES)
    rows = to_rows([*completions, *[b""] * padding])
    reward = step_reward(*rows, key_steps, answers, semantics=semantics, alpha=0.1)
    return jax.tree.map(lambda column: np.asarray(column)[: len(completions)], check_shapes(reward))


def assert_agree(kernels: rewards.StepReward, completions: list[bytes], records: list[dict], semantics: str) -> None:
    by_strings = rewards.score(completions, records, semantics=semantics)
    for field in dataclasses.fields(rewards.StepReward):
        actual, expected = getattr(kernels, field.name), getattr(by_strings, field.name)
        if expected.ndim == 2:
            missing = ((0, 0), (0, max(0, actual.shape[1] - expected.shape[1])))
            expected = np.pad(expected, missing, constant_values=-1 if field.name == "section_end_BJ" else 0)
            expected = expected[:, : actual.shape[1]]
        for row in np.flatnonzero(~kernels.undecided):
            message = f"{field.name} of {completions[row]!r} with {records[row]}, {semantics}"
            np.testing.assert_allclose(actual[row], expected[row], atol=1e-6, err_msg=message)


def random_batch(rng: np.random.Generator, number: int) -> tuple[list[bytes], list[dict]]:
    puzzles = [texts.puzzle(rng) for _ in range(number)]
    return [texts.completion(rng, p, WIDTH) for p in puzzles], [texts.record(rng, p) for p in puzzles]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=8, deadline=None)
@pytest.mark.parametrize("semantics", SEMANTICS)
def test_kernels_agree_with_strings(semantics, seed):
    completions, records = random_batch(np.random.default_rng(seed), NUM_ROWS)
    assert_agree(score(completions, records, semantics), completions, records, semantics)


@given(st.lists(st.sampled_from([piece.encode() for piece in texts.PIECES]) | st.binary(max_size=3)).map(b"".join))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("semantics", SEMANTICS)
def test_kernels_agree_on_arbitrary_pieces(semantics, completion):
    record = {"answer": "7", "key_steps": [["3+4=7", "prime"], ["7", " "], [""], "the sum"]}
    completions = [completion[:WIDTH], completion[: WIDTH // 2][::-1]]
    assert_agree(score(completions, [record] * 2, semantics), completions, [record] * 2, semantics)


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_kernels_agree_on_the_table_of_answers(semantics):
    cases = [case for case in read_cases() if len(case.prediction) < 100]
    completions = [PATH[:-1].encode() + case.prediction.encode() for case in cases]
    records = [{"answer": case.gold, "key_steps": []} for case in cases]
    decided = 0
    for start in range(0, len(cases), NUM_ROWS):
        rows = slice(start, start + NUM_ROWS)
        reward = score(completions[rows], records[rows], semantics)
        assert_agree(reward, completions[rows], records[rows], semantics)
        decided += np.sum(~reward.undecided)
    assert decided > 100


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_kernels_decide_the_first_of_several_answers_only(semantics):
    records = [{"answer": "7", "other_answers": ["eight", "9"]}] * 4
    completions = [PATH[:-1].encode() + answer for answer in (b"7", b"9", b"10", b"red")]
    reward = score(completions, records, semantics)
    assert reward.answer_correct.tolist() == [True, False, False, False]
    assert reward.undecided.tolist() == [False, True, True, True]


@pytest.mark.slow
@pytest.mark.parametrize("semantics", SEMANTICS)
def test_kernels_agree_on_a_hundred_thousand_cases(semantics):
    rng, num_undecided, num_cases = np.random.default_rng(1), 0, 100_352
    for _ in range(num_cases // 512):
        completions, records = random_batch(rng, 512)
        key_steps, answers = rewards.pack(records, semantics=semantics, **SIZES)
        reward = step_reward(*to_rows(completions), key_steps, answers, semantics=semantics, alpha=0.1)
        reward = jax.tree.map(np.asarray, reward)
        assert_agree(reward, completions, records, semantics)
        num_undecided += np.sum(reward.undecided)
    print(f"{semantics}: {num_cases} cases agree; undecided {num_undecided / num_cases:.1%}")


def test_few_completions_of_the_digits_task_are_undecided():
    rng = np.random.default_rng(0)
    num_undecided = 0
    for _ in range(8):
        puzzles = [texts.puzzle(rng) for _ in range(NUM_ROWS)]
        records = [{"answer": p.answer, "key_steps": [list(g[:3]) for g in p.key_steps][:4]} for p in puzzles]
        num_undecided += np.sum(score([texts.mutated(rng, p) for p in puzzles], records, "paper").undecided)
    assert num_undecided <= 0.05 * 8 * NUM_ROWS


def test_of_several_answer_sections_the_first_must_not_be_empty():
    """A case of the 100,000: all parts are present, but the answer that counts is empty."""
    completions = [PATH.replace(response_format.ANSWER, f"{response_format.ANSWER}\n{response_format.ANSWER}").encode()]
    reward = score(completions, [RECORD], "paper")
    assert_agree(reward, completions, [RECORD], "paper")
    assert not reward.complete[0]


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_rows_beyond_the_bounds_are_undecided(semantics):
    completions = [PATH.encode(), b"x" * (WIDTH + 1) + PATH.encode(), PATH.encode() + b"\n### " * (MAX_HEADINGS - 4)]
    np.testing.assert_array_equal(score(completions, [RECORD] * 3, semantics).undecided, [False, True, True])
    within = PATH.encode() + b"\n### " * (MAX_HEADINGS - 6)  # PATH has six headings itself
    assert not score([within], [RECORD], semantics).undecided[0]


def test_of_a_long_answer_only_the_option_is_compared():
    long = b" and so on" * 20
    answers = [b"C: 45" + long, b"B: 45" + long, b"B" + b" " * 50, b"(c)"]
    paths = [PATH.encode()[:-1] + answer for answer in answers]
    reward = score(paths, [RECORD | {"answer": "B"}] * 4, "paper")
    np.testing.assert_array_equal(reward.undecided, [False, True, False, False])
    np.testing.assert_array_equal(reward.answer_correct, [False, False, True, False])


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_hash_collisions_are_undecided(semantics):
    """A Thue-Morse word and its complement have the same polynomial hash modulo 2^32, whatever the base."""
    word = functools.reduce(lambda word, _: word + word.translate(str.maketrans("xy", "yx")), range(8), "x")
    other = word.translate(str.maketrans("xy", "yx"))
    record = {"answer": "7", "key_steps": [[other], "step"]}
    completions = [f"### Step 1:\n{text}\n{response_format.ANSWER}\n7".encode() for text in (word, other, word[:-1])]
    reward = score(completions, [record] * 3, semantics)
    np.testing.assert_array_equal(reward.undecided, [True, False, False])
    np.testing.assert_allclose(reward.key_step_match, [0.5, 1.0, 0.5] if semantics == "paper" else [0.0, 0.5, 0.0])


@pytest.mark.parametrize("alpha", [0.1, 0.4])
def test_alpha_weighs_key_steps(alpha):
    key_steps, answers = rewards.pack([RECORD] * NUM_ROWS, semantics="paper", **SIZES)
    rows = to_rows([PATH.encode()] * NUM_ROWS)
    reward = step_reward(*rows, key_steps, answers, semantics="paper", alpha=alpha)
    np.testing.assert_allclose(reward.total, 2 + alpha, rtol=1e-6)
    np.testing.assert_allclose(jnp.sum(reward.section_reward_BJ, axis=1), reward.total, rtol=1e-6)


def test_eight_devices_give_the_rewards_of_one():
    completions, records = random_batch(np.random.default_rng(0), NUM_ROWS)
    key_steps, answers = rewards.pack(records, semantics="paper", **SIZES)
    inputs = (*to_rows(completions), key_steps, answers)
    by_rows = PartitionSpec("data")
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    score_shard = functools.partial(rewards.kernels.step_reward, semantics="paper", alpha=0.1)
    sharded = jax.jit(jax.shard_map(score_shard, mesh=mesh, in_specs=by_rows, out_specs=by_rows, check_vma=False))
    one_device = step_reward(*inputs, semantics="paper", alpha=0.1)
    jax.tree.map(np.testing.assert_array_equal, sharded(*inputs), one_device)
