r"""MathVision and MathVerse."""

import time

import pytest
from helpers.benchmark_files import row

from r1vl_jax.evaluation.benchmarks.mathematics import are_equal, score_mathverse, score_mathvision
from r1vl_jax.evaluation.benchmarks.rules import RULES
from r1vl_jax.rewards import Judge
from r1vl_jax.rewards.explain import decide

NEW = RULES["2026-08"]
CHOICES = "['30', '45', '60', '75', '90']"


@pytest.fixture(scope="module")
def judge():
    with Judge(num_workers=1, timeout_s=30.0) as judge:
        yield judge


@pytest.mark.parametrize(
    ("gold", "prediction", "is_equal"),
    [
        (r"\sqrt[3]{8}", "2", True),
        (r"\text{Sunday}", "Sunday", True),
        (r"\text{Sunday}", "sunday", True),
        (r"\frac12", "0.5", True),
        (r"\frac12", r"\frac{1}{2}", True),
        (r"\dfrac{\sqrt{3}}{2}", "0.866", True),
        (r"3\sqrt{2}", "4.243", True),
        (r"3\sqrt{2}", "4.25", False),
        ("2\\pi", "6.28", True),
        ("1200", "1,200", True),
        ("45", r"45^\circ", True),
        ("45", r"45^{\circ}", True),
        ("50", r"50\%", True),
        ("12", "12 km", True),
        ("12", "12 m^3", True),
        ("12", "12 units", True),
        ("12", r"x \approx 12", True),
        ("12", "x ≈ 12", True),
        ("12", "12 kg", False),
        ("12", "12 xy", False),
        ("12", "12x", False),
        ("12", "12 or", False),
        ("12", "x = 3 * 4 = 12", True),
        ("(1, 2)", "(1,2)", True),
        ("(1, 0.5)", r"(1.0, \frac{1}{2})", True),
        ("(1, 2)", "(2, 1)", False),
        ("(1, 2)", "(1, 2, 3)", False),
        ("1,2", "1, 2", True),
        ("A", "(a)", True),
        ("12", "13", False),
        ("12", "", False),
        ("", "", False),
        ("2x", r"2x^\circ", True),
        ("4", "__import__('os').system('true') or 4", False),
        ("4", "9" * 50_000, False),
        ("4", "(" * 50_000, False),
        ("4", "1" + ",1" * 50_000, False),
        ("4", "9^9^9^9^9", False),
        ("4", "1/0", False),
    ],
)
def test_equal_texts_tuples_and_values(gold, prediction, is_equal):
    assert are_equal(gold, prediction) is is_equal


@pytest.mark.parametrize(
    ("gold", "choices", "prediction", "is_right"),
    [
        ("C", CHOICES, "so it is C.", True),
        ("C", CHOICES, "so it is (C).", True),
        ("C", CHOICES, "C\nsince it is so", True),
        ("C", CHOICES, "(C)\nsince it is so", True),
        ("C", CHOICES, "C", True),
        ("C", CHOICES, "C: 60", True),
        ("C", CHOICES, "60", True),  # the option's text
        ("C", CHOICES, "D: 75", False),
        ("C", CHOICES, "so it is C or D.", False),
        ("C", CHOICES, r"The answer is D, or \boxed{C}", True),  # the box goes before the phrase
        ("C", CHOICES, r"\boxed{D}, no, \boxed{\text{C}}", True),
        ("12", "[]", "The final answer is 12", True),
        ("12", "[]", "the correct answer is 12. So it is", True),
        ("12", "[]", "The answer should be: 12\nor not", True),
        ("12", "[]", "The answer is 11. No, the answer is 12.", True),
        ("12", "[]", r"\boxed{12}", True),
        ("12", "[]", r"It is 11, so \boxed{11}. No, it is 12.", True),
        ("12", "[]", "so the value is 12", True),
        ("12", "[]", "this 12", False),
        ("12", "[]", r"\boxed{12", False),
        ("12", "[]", "12", True),
        ("12", "[]", "twelve and then some", False),
        ("12.5", "[]", "The answer is 12.5.", True),
        ("x+1", "[]", "1+x", True),  # by math-verify
        ("x+1", "[]", "x+2", False),
    ],
)
def test_mathvision(judge, gold, choices, prediction, is_right):
    outcome = score_mathvision(row("mathvision", answer=gold, choices=choices), prediction, NEW)
    (comparison,) = decide([outcome.comparison], judge)
    assert comparison.is_correct is is_right


@pytest.mark.parametrize(
    ("question_type", "gold", "prediction", "is_right"),
    [
        ("multi-choice", "B", "B", True),
        ("multi-choice", "B", "B: 60°", True),
        ("multi-choice", "B", r"so \boxed{B}", True),
        ("multi-choice", "B", "60°", True),
        ("multi-choice", "B", "A", False),
        ("multi-choice", "B", "A or B", False),
        ("free-form", "5", "5", True),
        ("free-form", r"8\sqrt{3}", r"so it is \boxed{\sqrt{192}}", True),
        ("free-form", "y=2x+1", "y=1+2x", True),
        ("free-form", "y=2x+1", "y=2x-1", False),
        ("free-form", "5", "6", False),
    ],
)
def test_mathverse(judge, question_type, gold, prediction, is_right):
    outcome = score_mathverse(row("mathverse", question_type=question_type, answer=gold), prediction, NEW)
    (comparison,) = decide([outcome.comparison], judge)
    assert comparison.is_correct is is_right


def test_mathverse_reads_options_that_stand_in_the_picture():
    cells = {"question": "", "question_for_eval": "x?\nChoices:\nA:30°\nB:60°"}
    assert score_mathverse(row("mathverse", **cells), "it is 60°", NEW).extracted == "B"
    assert score_mathverse(row("mathverse", question=""), "B", NEW).extracted == "B"


@pytest.mark.parametrize("name", ["mathvision", "mathverse"])
@pytest.mark.parametrize(
    "prediction",
    [
        "\\boxed{" * 20_000,
        "the answer is " * 10_000,
        "the answer " * 10_000,
        "1/" * 30_000,
        "\\frac" * 20_000,
        " " * 100_000 + "x",
        "\n" * 100_000,
        "A)" * 50_000,
        "\\sqrt[3]{" * 20_000,
        "(" * 10_000 + "1" + ")" * 10_000,
        "{}" * 50_000,
        "\ud800\x00",
    ],
    ids=range(12),
)
def test_hostile_predictions_take_no_time(name, prediction):
    score = {"mathvision": score_mathvision, "mathverse": score_mathverse}[name]
    start = time.process_time()
    outcome = score(row(name, question_type="free-form", answer="12"), prediction, NEW)
    assert outcome.comparison.is_correct is not True
    assert time.process_time() - start < 2.0
