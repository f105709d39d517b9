"""ChartQA, DynaMath and MathVista."""

import math
import random
import time

import pytest
from helpers.benchmark_files import row

from r1vl_jax.evaluation.benchmarks.edit_distance import edit_distance
from r1vl_jax.evaluation.benchmarks.numbers import relaxed_equal, score_chartqa, score_dynamath, score_mathvista
from r1vl_jax.evaluation.benchmarks.rules import RULES

OLD, NEW = RULES["2025-03"], RULES["2026-08"]


@pytest.mark.parametrize(
    ("reference", "prediction", "old", "new"),
    [
        ("100", "95", False, True),
        ("100", "105.2", True, False),
        ("100", "105", True, True),
        ("100", "94.9", False, False),
        ("0", "0.0", False, False),
        ("0", "0", True, True),
        ("0.0", "1", False, False),
        ("1", "0", False, False),
        ("12", "12%", False, False),
        ("12%", "0.12", True, True),
        ("-5", "-5.1", True, True),
        ("5", "-5", False, False),
        ("Blue", "blue", True, True),
        ("None", "none", True, True),
        ("N/A", "n/a", True, True),
        ("100", "1,00", False, False),
        ("100", "nan", False, False),
        ("100", "inf", False, False),
        ("100", "%", False, False),
        ("inf", "inf", True, True),
        ("5", "inf", False, False),
        ("100", "9" * 5_000, False, False),
        ("blue", "", False, False),
    ],
)
def test_relaxed_correctness(reference, prediction, old, new):
    assert relaxed_equal(reference, prediction, OLD) is old
    assert relaxed_equal(reference, prediction, NEW) is new


@pytest.mark.parametrize(
    ("answer", "prediction", "is_right"),
    [
        ("['14', 'fourteen']", "Fourteen", True),
        ("[14, 20]", "19.5", True),
        ("[14, 20]", "17", False),
        ("[Yes, No]", "[yes, no]", True),
        ("None", "None", True),
        ("None", "", False),
    ],
)
def test_the_best_of_the_references_counts(answer, prediction, is_right):
    assert score_chartqa(row("chartqa", answer=answer), prediction, NEW).comparison.is_correct is is_right


@pytest.mark.parametrize(
    ("answer_type", "answer", "prediction", "is_right"),
    [
        ("float", "2.5", "2.5009", True),
        ("float", "1", "1.001", True),
        ("float", "5", "5.001", True),
        ("float", "2.5", "2.502", False),
        ("float", "2.5", "2.5 cm", True),
        ("float", "2.5", "2.5cm", False),
        ("float", "2.5", "cm 2.5", False),
        ("float", "1000", "1e3", True),
        ("float", "6.283", "2π", True),
        ("float", "3.142", "pi", True),
        ("float", "0.5", "1/2", True),
        ("float", "0.5", "50%", False),
        ("float", "0.5", "__import__('os').getcwd()", False),
        ("float", "0.5", "9**9**9**9", False),
        ("float", "0.5", "nan", False),
        ("float", "2.5", '{"solution": "so", "short answer": "2.5"}', True),
        ("float", "2.5", 'So ```json\n{"solution": "so", "short answer": 2.5}\n```', True),
        ("float", "2.5", '{"short answer": ""}', False),
        ("float", "2.5", '{"short answer": ' + "[" * 100_000 + "}", False),
        ("multiple choice", "B", "b", True),
        ("multiple choice", "F", "f", True),
        ("multiple choice", "B", "(B)", True),
        ("multiple choice", "B", "A or B", False),
        ("multiple choice", "B", "B: 45", True),
        ("multiple choice", "B", "option", False),  # no letter of A to E
        ("multiple choice", "B", "B, I mean", False),  # an A and an E, too
        ("multiple choice", "B", "?", False),
        ("text", "The even function", "even", True),
        ("text", "even", "the even function", False),
        ("text", "even", "", False),
        ("text", "even", " ", False),
    ],
)
def test_dynamath(answer_type, answer, prediction, is_right):
    outcome = score_dynamath(row("dynamath", answer_type=answer_type, answer=answer), prediction, NEW)
    assert outcome.comparison.is_correct is is_right


CHOICES = "['145°', '135°', '35°', 'None']"


@pytest.mark.parametrize(
    ("prediction", "extracted"),
    [
        ("B", "135°"),
        ("(b)", "135°"),
        ("It is (A), not (B)", "145°"),
        ("135", "135°"),
        ("B: 135°", "135°"),
        ("None", "None"),
        ("(E)", "35°"),  # beyond the options
        ("E", "35°"),
        ("xyz", "35°"),
    ],
)
def test_mathvista_chooses_an_option(prediction, extracted):
    cells = {"question_type": "multi_choice", "answer_type": "text", "choices": CHOICES, "answer": extracted}
    outcome = score_mathvista(row("mathvista", **cells), prediction, NEW)
    assert outcome.extracted == extracted
    assert outcome.comparison.is_correct


def test_mathvista_takes_the_first_of_equally_distant_options():
    cells = {"question_type": "multi_choice", "choices": '["12", "34"]', "answer": "12"}
    assert score_mathvista(row("mathvista", **cells), "(E)", NEW).extracted == "12"


@pytest.mark.parametrize(
    ("answer_type", "answer", "precision", "prediction", "is_right"),
    [
        ("float", "1.2", "1", "1.23", True),
        ("float", "1.2", "1.0", "1.23", True),
        ("float", "1.2", "", "1.23", True),
        ("float", "1.20", "2", "1.2", False),  # "1.2" is not "1.20"
        ("float", "1.2", "1", "1.3", False),
        ("float", "1.2", "1", "1.2 cm", False),
        ("float", "1.2", "1", "inf", False),
        ("integer", "14", "", "14.9", True),
        ("integer", "14", "", "14", True),
        ("integer", "14", "", "inf", False),
        ("integer", "14", "", "nan", False),
        ("integer", "14", "", "fourteen", False),
        ("text", "blue", "", "blue", True),
        ("text", "blue", "", "Blue", False),
        ("list", "[1, 2]", "", "[1, 2]", True),
    ],
)
def test_mathvista_free_form(answer_type, answer, precision, prediction, is_right):
    cells = {"answer_type": answer_type, "answer": answer, "precision": precision}
    assert score_mathvista(row("mathvista", **cells), prediction, NEW).comparison.is_correct is is_right


def _distance_by_table(one: str, other: str) -> int:
    above = list(range(len(other) + 1))
    for row_number, character in enumerate(one, start=1):
        here = [row_number]
        for column, each in enumerate(other, start=1):
            here.append(min(above[column] + 1, here[-1] + 1, above[column - 1] + (character != each)))
        above = here
    return above[-1]


def test_edit_distance_is_that_of_the_table():
    random.seed(0)
    for _ in range(300):
        one, other = ("".join(random.choices("abç", k=random.randrange(9))) for _ in range(2))
        assert edit_distance(one, other) == _distance_by_table(one, other), (one, other)


def test_edit_distance_of_a_long_text_is_fast():
    assert edit_distance("x" * 20_000, "yes") == 20_000
    assert math.isclose(edit_distance("a" * 20_000 + "b" * 20, "b" * 20), 20_000)


def test_edit_distance_of_a_megabyte_is_linear():
    """Of 4 MB, which a quadratic table would need days for."""
    start = time.process_time()
    assert edit_distance("ab" * 2_000_000, "b\ud800") == 3_999_999
    assert time.process_time() - start < 5.0
