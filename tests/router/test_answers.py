"""Answers are compared by their words in VQA's normal form."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1vl_jax.router import answers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  The\n\tEiffel Tower ", "eiffel tower"),
        ("an apple and a pear", "apple and a pear"),  # "a" is no article here
        ("two of ten, none of Zero", "2 of 10 0 of 0"),
        ("eleven someone", "eleven someone"),
        ("mother-in-law", "mother in law"),  # stands beside no space: a space
        ("mother-in-law - yes", "motherinlaw yes"),  # one does: all are removed
        ("1,000 (U.S.)", "1000 us"),
        ("3.5 or .5 m.", "3.5 or .5 m"),
        ("a/b", "a b"),
        ("1,000 a/b", "1000 ab"),  # where digits are grouped every mark is removed
        ("“Don’t”", "don't"),
        ("", ""),
        ("?!", ""),
    ],
)
def test_normal_form(text, expected):
    assert answers.normalize(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Verne's book", ["verne", "'s", "book"]),
        ("dont, don't", ["dont", "dont"]),
        ("5% of $3", ["5", "%", "of", "$", "3"]),
        ("at 10:30: now", ["at", "10:30", "now"]),
        ("凡尔纳，1905年", ["凡", "尔", "纳", "1905", "年"]),
        ("'", []),
    ],
)
def test_words(text, expected):
    assert answers.words(text) == expected


def test_overlap_counts_each_word_as_often_as_both_have_it():
    shared = answers.overlap("New York New Jersey", "New New New York City")  # shares new, new, york
    assert (shared.precision, shared.recall) == (3 / 4, 3 / 5)
    assert shared.f1 == pytest.approx(2 * 0.75 * 0.6 / 1.35)


def test_recall_is_that_of_the_best_f1_and_not_the_best_recall():
    # F1 of "b": precision 1/4, recall 1 -> 0.4; of "a b c e": 3/4 and 3/4 -> 0.75.
    assert answers.recall_of_best("a b c d", ["b", "a b c e"]) == 0.75


def test_of_equal_f1_the_first_counts():
    # F1 of the prediction "x y" with "x" is 2/3 (recall 1), and with "x y z w" it is 2/3, too (recall 1/2).
    assert answers.recall_of_best("x y", ["x", "x y z w"]) == 1.0
    assert answers.recall_of_best("x y", ["x y z w", "x"]) == 0.5


@pytest.mark.parametrize(
    ("prediction", "golds"), [("no", ["yes"]), ("", ["yes"]), ("the", ["the"]), ("yes", [""]), ("yes", [])]
)
def test_without_a_shared_word_recall_is_0(prediction, golds):
    assert answers.recall_of_best(prediction, golds) == 0.0


@pytest.mark.parametrize(
    ("prediction", "golds", "expected"),
    [
        ("The Jules  Verne.", ["Victor Hugo", "Jules Verne"], True),
        ("Jules Verne Jr", ["Jules Verne"], False),
        ("Jules Verne Verne", ["Jules Verne"], False),
        ("Verne Jules", ["Jules Verne"], False),
        ("", [""], False),
        ("yes", [], False),
    ],
)
def test_exact_match(prediction, golds, expected):
    assert answers.exact_match(prediction, golds) is expected


texts = st.text("aAn the.,:-'0129%vé凡", max_size=20)


@settings(deadline=None)
@given(texts, texts)
def test_overlap_is_a_fraction_and_symmetric(prediction, gold):
    there, back = answers.overlap(prediction, gold), answers.overlap(gold, prediction)
    assert 0 <= there.recall <= 1
    assert (there.precision, there.recall) == (back.recall, back.precision)


@settings(deadline=None)
@given(texts)
def test_an_answer_with_words_has_its_own_recall(text):
    assert answers.recall_of_best(text, [text]) == float(bool(answers.words(text)))
