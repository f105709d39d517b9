r"""Answers: extraction, and the exact comparison without math-verify."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1vl_jax.rewards import answers


@pytest.mark.parametrize(
    ("gold", "prediction", "is_equal"),
    [
        ("12", "12", True),
        ("12", " 12 \n", True),
        ("12", "$12$", True),
        ("Two Cats", "two  cats", True),
        (r"\frac{1}{2}", r"\frac {1} {2}", True),
        ("12", "13", False),
        ("12", "12.0", True),
        ("12", "+12", True),
        ("12", "012", True),
        ("-12", "12", False),
        ("- 5", "-5", True),
        ("0.5", ".5", True),
        ("0.5", r"\frac{1}{2}", True),
        ("0.5", "1/2", True),
        ("-0.5", r"-\frac{1}{2}", True),
        ("-0.5", r"\frac{-1}{2}", True),
        ("0.333", "1/3", False),
        ("1/3", "2/6", True),
        ("50%", "0.5", True),
        ("50 %", "50/100", True),
        (r"50\%", "50%", True),
        ("50%", "50", False),
        ("1234567", "1,234,567", True),
        ("1234.5", "$1,234.50", True),
        ("1.10", "1.1", True),
        ("9007199254740993", "9007199254740992", False),  # equal as floating-point numbers
        ("0.1", "0.10000000000000000001", False),
        ("12", "twelve", False),
        ("twelve", "12", False),
        ("45", "B", False),
        ("B", "B", True),
        ("B", "b", True),
        ("B", "(B)", True),
        ("B: 45", "B", True),
        ("B", "B: 45", True),
        ("B: 45", "B. 45", True),
        ("B: 45", "(B) 45", True),
        ("B: 45", "B) 46", True),
        ("B: 45", "C: 45", False),
        ("(A)", "D", False),
        ("B: 45", "45", None),
        ("x", "y", None),
        ("a.m.", "a.b.", None),
        ("12", "12 cm", None),
        ("12", "The answer is 12.", None),
        ("12", r"\boxed{12}", None),
        ("1,23", "123", None),
        ("1/0", "2/0", None),
        ("1/0", "7", None),
        ("cat", "dog", None),
        ("٣", "3", None),  # digits are 0-9
        ("12", "", None),
        ("1" * 5000, "2" * 5000, None),
    ],
)
def test_is_equal(gold, prediction, is_equal):
    assert answers.is_equal(gold.encode(), prediction.encode()) is is_equal


@given(st.binary(), st.binary())
def test_is_equal_is_symmetric_and_accepts_any_bytes(first, second):
    assert answers.is_equal(first, second) is answers.is_equal(second, first)
    assert answers.is_equal(first, first) is True


@given(st.integers(-999, 999), st.integers(1, 99))
def test_spellings_of_one_fraction_are_equal(numerator, denominator):
    plain, latex, whole = (
        f"{numerator}/{denominator}",
        rf"\frac{{{numerator}}}{{{denominator}}}",
        f"{numerator * 3}/{denominator * 3}",
    )
    assert answers.is_equal(plain.encode(), latex.encode())
    assert answers.is_equal(plain.encode(), whole.encode())
    assert answers.is_equal(plain.encode(), f"{numerator + 1}/{denominator}".encode()) is False


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("12", "12"),
        (" two\nlines ", "two\nlines"),
        ("### Step 1:\n7\n\n### The final answer is:\n\n  12 \n\nDone.", "12"),
        ("### The final answer is: 12", "12"),
        ("### The final answer is:\n12\n### The final answer is:\n13", "12"),
        ("### The final answer is:\n", ""),
    ],
)
def test_gold_answer(text, answer):
    assert answers.gold_answer(text.encode()) == answer.encode()
