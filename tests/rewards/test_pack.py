"""Packing of records into arrays."""

import numpy as np
import pytest

from r1vl_jax import rewards
from r1vl_jax.arrays import check_shapes

RECORDS = [
    {"answer": "-3/4", "key_steps": [["A + B", "$C$"], "x"]},
    {"solution": "### The final answer is:\n(C) 5", "key_steps": {"Steps": []}},
    {"answer": "North", "key_steps": [[]]},
]


def spelling(key_steps: rewards.KeySteps, *place: int) -> bytes:
    return key_steps.byte_BRAL[place][: key_steps.length_BRA[place]].tobytes()


def test_spellings_are_normalised_by_semantics():
    paper, released = (check_shapes(rewards.pack(RECORDS, semantics=name)[0]) for name in ("paper", "released"))
    assert (spelling(paper, 0, 0, 0), spelling(released, 0, 0, 0)) == (b"a+b", b"a + b")
    np.testing.assert_array_equal(paper.length_BRA, [[[3, 1], [1, -1]], [[-1, -1]] * 2, [[-1, -1]] * 2])
    np.testing.assert_array_equal(released.length_BRA[0], [[5, 3], [1, -1]])
    np.testing.assert_array_equal(paper.num_groups_B, [2, 0, 0])


def test_answers_are_packed_in_every_form():
    answers = check_shapes(rewards.pack(RECORDS, semantics="paper")[1])
    np.testing.assert_array_equal(answers.is_number_B, [True, False, False])
    np.testing.assert_array_equal(answers.is_negative_B, [True, False, False])
    np.testing.assert_array_equal([answers.numerator_BN[0, 0], answers.denominator_BN[0, 0]], [3, 4])
    np.testing.assert_array_equal(answers.option_B, [0, 3, 0])
    np.testing.assert_array_equal(answers.option_has_text_B, [False, True, False])
    np.testing.assert_array_equal(answers.is_word_B, [False, False, True])
    np.testing.assert_array_equal(answers.form_decides_B, [True, True, True])
    assert answers.form_BW[2, : answers.form_length_B[2]].tobytes() == b"north"


def test_sizes_are_rounded_up_or_given():
    records = [{"answer": "7", "key_steps": [["a b c d e"], *["f"] * 4]}]
    assert rewards.pack(records, semantics="paper")[0].byte_BRAL.shape == (1, 8, 1, 16)
    key_steps, _ = rewards.pack(records, semantics="paper", max_groups=6, max_alternatives=2, max_length=9)
    assert key_steps.byte_BRAL.shape == (1, 6, 2, 9)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"max_groups": 1}, "expected max_groups=1 at most, got 2 in a record; raise max_groups"),
        ({"max_alternatives": 1}, "expected max_alternatives=1 at most, got 2"),
        ({"max_length": 2}, "expected max_length=2 at most, got 3"),
    ],
)
def test_records_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        rewards.pack(RECORDS, semantics="paper", **sizes)


def test_a_record_without_an_answer_is_refused():
    with pytest.raises(ValueError, match="record 1 has no answer"):
        rewards.pack([RECORDS[0], {"key_steps": []}], semantics="paper")
