"""The yes/no rule."""

import pytest
from helpers.benchmark_files import row

from r1vl_jax.evaluation.benchmarks.rules import RULES
from r1vl_jax.evaluation.benchmarks.yes_no import infer_yes_no, score_yes_no


@pytest.mark.parametrize(
    ("response", "said"),
    [
        ("Yes", "yes"),
        ("YES!", "yes"),
        ("No.", "no"),
        ("Yes, there is a cat", "yes"),
        ("Yes or no?", None),
        ("Yes, there is no cat", None),
        ("**Yes**", None),
        ("'yes'", None),
        ("#yes", None),
        ("A: yes", "yes"),
        ("yes:", None),
        ("yes/certainly", "yes"),
        ("yes-certainly", "yes"),
        ("yes-certainly - so", None),  # a dash beside a space is deleted everywhere
        ("yes-certainly -so", None),
        ("yes,certainly", "yes"),
        ("yes,certainly 1,200", None),  # so is every mark where a comma divides digits
        ("[yes]", "yes"),
        ("yes.", "yes"),
        ("yes.5", None),
        ("nothing", None),
        ("know", None),
        ("没有", None),
        ("", None),
    ],
)
def test_which_word_is_said(response, said):
    assert infer_yes_no(response) == said


@pytest.mark.parametrize(
    ("gold", "response", "is_right"), [("No", "no", True), ("Yes", "no", False), ("No", "", False)]
)
def test_the_word_is_compared_with_the_answer(gold, response, is_right):
    assert score_yes_no(row("mme", answer=gold), response, RULES["2026-08"]).comparison.is_correct is is_right
