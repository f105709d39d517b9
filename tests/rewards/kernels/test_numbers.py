"""Numbers parsed by the automaton, against the fractions of `rewards.answers`."""

from fractions import Fraction

import jax
import numpy as np
import pytest

from r1vl_jax.rewards.answers import parse_answer
from r1vl_jax.rewards.kernels import numbers

PIECES = (
    "0",
    "7",
    "12",
    "345",
    "1,234",
    ",",
    ".",
    ".5",
    "/",
    "-",
    "+",
    "%",
    "\\%",
    " %",
    "\\frac{",
    "}{",
    "}",
    "{",
    "a",
)
ALWAYS = (
    "1,234,567.50%",
    "-\\frac{-3}{4}",
    "\\frac{3}{0}",
    "9" * 32,
    "." + "9" * 31,
    "." + "9" * 30 + "%",
    "1/3",
    "-0",
)


@pytest.fixture(scope="module")
def forms():
    rng = np.random.default_rng(0)
    random = ["".join(PIECES[k] for k in rng.integers(len(PIECES), size=rng.integers(7))) for _ in range(3000)]
    return [form.encode() for form in (*ALWAYS, *random) if len(form) <= numbers.MAX_LENGTH]


@pytest.fixture(scope="module")
def parsed(forms):
    form_BX = np.array([np.frombuffer(form.ljust(numbers.MAX_LENGTH, b"\0"), np.uint8) for form in forms])
    return jax.jit(jax.vmap(numbers.parse_number))(form_BX, np.array([len(form) for form in forms], np.int32))


def value(digits: np.ndarray) -> int:
    return sum(int(digit) * numbers.BASE**index for index, digit in enumerate(digits))


def exact_value(form: bytes) -> Fraction:
    """The value by the definition on strings."""
    answer = parse_answer(form.decode())
    assert answer.kind == "number", form
    return answer.value


def test_parse_number(forms, parsed):
    assert np.sum(parsed.is_number) > 200
    for row, form in enumerate(forms):
        if parsed.is_number[row]:
            sign = -1 if parsed.is_negative[row] else 1
            actual = sign * Fraction(value(parsed.numerator_N[row]), value(parsed.denominator_N[row]))
            assert actual == exact_value(form), form


def test_equality_of_all_pairs(forms, parsed):
    rows = np.flatnonzero(parsed.is_number)[:120]
    some = jax.tree.map(lambda x: x[rows], parsed)
    every = jax.vmap(jax.vmap(numbers.is_equal, (None, 0)), (0, None))
    values = [exact_value(forms[row]) for row in rows]
    expected = [[one == other for other in values] for one in values]
    np.testing.assert_array_equal(jax.jit(every)(some, some), expected)
    assert 120 < np.sum(expected) < 120 * 120


def test_to_digits():
    assert value(numbers.to_digits(12_345_678_901)) == 12_345_678_901
    assert value(numbers.to_digits(numbers.BASE**numbers.NUM_DIGITS - 1)) == numbers.BASE**numbers.NUM_DIGITS - 1
    assert numbers.to_digits(numbers.BASE**numbers.NUM_DIGITS) is None
