"""How questions are asked."""

import pytest
from helpers.benchmark_files import row

from r1vl_jax.evaluation.benchmarks import BENCHMARKS, question_text


def test_multiple_choice_has_its_options_a_line_each():
    asked = question_text(BENCHMARKS["mmstar"], row("mmstar", D=""))
    question, request = asked.rsplit("\n", 1)
    assert question == "Question: What is it?\nChoices:\nA: a red car\nB: a blue bus\nC: a bicycle"
    assert "select" in request


def test_hallusionbench_offers_yes_and_no():
    assert question_text(BENCHMARKS["hallusionbench"], row("hallusionbench")) == "Is it?\nA: Yes\nB: No"


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name not in ("mmstar", "hallusionbench")])
def test_the_others_are_asked_as_they_are(name):
    assert question_text(BENCHMARKS[name], row(name)) == row(name)["question"]
