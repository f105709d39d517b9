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


CHOICES = "['the cat', 'the dog']"


def test_choices_that_the_hub_has_in_a_column_are_asked():
    query = "Hint: Give the letter.\nQuestion: x?\nChoices:\n(A) the cat\n(B) the dog"
    asked = question_text(BENCHMARKS["mathvista"], row("mathvista", choices=CHOICES, query=query))
    assert asked == query
    asked = question_text(BENCHMARKS["mathvision"], row("mathvision", choices=CHOICES))
    assert asked == "x?\nChoices:\n(A) the cat\n(B) the dog"


@pytest.mark.parametrize(("choices", "question"), [(CHOICES, "Is it the cat or the dog?"), ("['A', 'B']", "x?")])
def test_choices_that_are_seen_are_not_asked_again(choices, question):
    asked = question_text(BENCHMARKS["mathvision"], row("mathvision", choices=choices, question=question))
    assert asked == question


def test_a_question_that_stands_in_the_picture_alone_is_asked_by_its_request():
    cells = {"question": "", "query_cot": "Answer the question in the picture."}
    assert question_text(BENCHMARKS["mathverse"], row("mathverse", **cells)) == cells["query_cot"]
