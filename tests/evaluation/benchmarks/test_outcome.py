"""Which part of a response is scored."""

import pytest
from helpers.benchmark_files import QUESTIONS, row

from r1vl_jax.evaluation.benchmarks import BENCHMARKS, RULES
from r1vl_jax.evaluation.benchmarks.outcome import answer_text, score_response

HEADING = "### The final answer is:"


@pytest.mark.parametrize(
    ("response", "text"),
    [
        (f"### Step 1:\nA or B\n\n{HEADING}\nB: 45\n", "B: 45"),
        (f"The final answer is: A\n{HEADING} B", "B"),
        ("So. The final answer is: A. No. The final answer is: B", "B"),
        (f"{HEADING} A\n{HEADING} B", f"{HEADING} A\n{HEADING} B"),
        (" B ", "B"),
        (HEADING, ""),
        ("", ""),
    ],
)
def test_the_answer_is_below_the_only_heading(response, text):
    assert answer_text(response) == text


@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("response", ["", " \n", f"12 B Yes\n{HEADING}\n"], ids=["empty", "space", "heading"])
def test_an_empty_answer_is_wrong_everywhere(name, rules, response):
    question = row(name) | {"answer": "", "choices": "['', 'B']", "question_type": "multi_choice"}
    for cells in (row(name), question):
        outcome = score_response(BENCHMARKS[name].score, cells, response, RULES[rules])
        assert outcome.comparison.is_correct is False
        assert outcome.comparison.reason == "no answer"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_answer_itself_is_right(name):
    outcome = score_response(BENCHMARKS[name].score, row(name), QUESTIONS[name]["answer"], RULES["2026-08"])
    assert outcome.comparison.is_correct is True
