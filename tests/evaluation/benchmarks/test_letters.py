"""The letter rule, in both versions."""

import pytest
from helpers.benchmark_files import row

from r1vl_jax.evaluation.benchmarks.letters import infer_letter, score_letter, score_options
from r1vl_jax.evaluation.benchmarks.rules import RULES

OPTIONS = {"A": "a red car", "B": "a blue bus", "C": "a bicycle", "D": "no vehicle"}
OLD, NEW = RULES["2025-03"], RULES["2026-08"]


@pytest.mark.parametrize(
    ("response", "old", "new"),
    [
        ("B", "B", "B"),
        ("(B)", "B", "B"),
        ("**B**", "B", "B"),
        ("B: a blue bus", "B", "B"),
        ("{B}", "B", "B"),
        ("b", None, None),
        ("B or C", None, None),
        ("B, since B", "B", "B"),
        ("B it is, as one can see in it", "B", None),
        ("As one can see in the image, it is B", "B", "B"),
        ("w x y z B", "B", "B"),
        ("B w x y", "B", "B"),
        ("B w x y z", "B", None),
        # the phrase
        ("The answer is C, since A and B are wrong", None, "C"),
        ("the ANSWER IS **d, not A and not B", None, "D"),
        ("the answer is b", None, "B"),
        ("answer is brown", None, None),
        ("the answer is A, or the answer is D", None, "A"),
        ("the answer is E, not A, not B", None, None),
        # the text
        ("It shows a BLUE BUS.", "B", "B"),
        ("It shows A BLUE BUS.", "A", "A"),  # a letter, too
        ("a blue bus and a bicycle", None, None),
        ("a blue bus" + " it is" * 12, "B", None),
        ("nothing of these", None, None),
        ("", None, None),
        # refusals
        ("Cannot determine the answer: B", None, None),
        ("I can’t help with images of people, A", None, None),
    ],
)
def test_which_option_is_named(response, old, new):
    assert infer_letter(response, OPTIONS, OLD) == old
    assert infer_letter(response, OPTIONS, NEW) == new


def test_length_is_limited_beyond_twice_all_options():
    options = {"A": "red", "B": "blue"}
    assert infer_letter("so it is blue!", options, NEW) == "B"  # of 14 characters
    assert infer_letter("so it is blue!!", options, NEW) is None
    assert infer_letter("so it is blue!!", options, OLD) == "B"


def test_an_option_without_text_is_not_contained_in_everything():
    assert infer_letter("the second", {"A": "the first", "B": ""}, OLD) is None


def test_columns_of_a_row_are_the_options():
    assert score_options(row("mmstar"), "a blue bus", NEW).comparison.is_correct
    outcome = score_options(row("mmstar", D=""), "D", NEW)
    assert (outcome.extracted, outcome.comparison.is_correct) == ("", False)
    assert outcome.comparison.reason == "names no option"


def test_a_wrong_letter_is_wrong():
    outcome = score_letter("B", "C", OPTIONS, NEW)
    assert (outcome.extracted, outcome.comparison.is_correct) == ("C", False)
