"""Which part of a response is scored."""

import hypothesis
import pytest
from helpers.benchmark_files import QUESTIONS, row
from hypothesis import strategies

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


_PIECES = (
    "A B (C) D. Yes no 12 -3.5 4% 1e999 nan inf 9^9^9^9 1/0 x+1 answer is π ٣ \x00 = { } [ ' \" \\boxed{ \\frac12"
    " \\frac{1}{} \\sqrt[0]{8}"
)
_WORDS = strategies.sampled_from([*_PIECES.split(), "\n", HEADING]) | strategies.text(max_size=5)
_TEXT = strategies.lists(_WORDS).map(" ".join)


@pytest.mark.parametrize("name", BENCHMARKS)
@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
@hypothesis.given(response=_TEXT, cell=_TEXT)
def test_no_text_breaks_a_scorer(name, response, cell):
    """Neither a response nor what stands in the columns."""
    fixed = ("index", "image_path", "question_type")
    for cells in (row(name), {key: text if key in fixed else cell for key, text in row(name).items()}):
        comparison = score_response(BENCHMARKS[name].score, cells, response, RULES["2026-08"]).comparison
        assert comparison.is_correct is not None or list(comparison.questions())
