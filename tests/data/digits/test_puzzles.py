"""Puzzles of the embedded task: answers and steps against Python, spellings, and digits in a description."""

import collections
import re

import numpy as np
import pytest

from r1vl_jax import rewards
from r1vl_jax.data.digits.puzzles import (
    MAKERS,
    digits_in_description,
    make_choice,
    make_count,
    make_expression,
    make_largest,
)

DIFFICULTIES = (1, 2, 3)


def puzzles(make, difficulty, count=200):
    rng = np.random.default_rng(0)
    return [make(rng, difficulty) for _ in range(count)]


def python(expression: str) -> int:
    return eval(expression)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize("make", MAKERS)
def test_every_equation_of_every_step_is_true(make, difficulty):
    for puzzle in puzzles(make, difficulty):
        assert 1 <= len(puzzle.steps) <= 3
        for step in puzzle.steps:
            for left, right in re.findall(r"(-?\d+[-+*]-?\d+)=(-?\d+)", step):
                assert python(left) == int(right)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_values_of_expressions_equal_pythons(difficulty):
    for puzzle in puzzles(make_expression, difficulty):
        assert int(puzzle.answer) == python(re.sub(r"\b0+(?=\d)", "", puzzle.description))
        assert puzzle.rows[0] == puzzle.description
        assert puzzle.steps[-1].endswith(f"={puzzle.answer}")
        assert sum(character.isdigit() for character in puzzle.rows[0]) == (2, 3, 4)[difficulty - 1]


def test_products_are_evaluated_first():
    puzzle = next(p for p in puzzles(make_expression, 2) if re.match(r"\d[-+]\d\*", p.description))
    a, sign, b, _, c = puzzle.description
    assert puzzle.steps[0] == f"{b}*{c}={int(b) * int(c)}"
    assert puzzle.steps[1].startswith(f"{a}{sign}{int(b) * int(c)}=")
    assert puzzle.rationale == "Multiply first."


def test_choices_have_one_right_option():
    letters = collections.Counter()
    for puzzle in puzzles(make_choice, 2):
        options = dict(re.findall(r"([A-D])(\d)", puzzle.question))
        assert len(set(options.values())) == 4
        assert options[puzzle.answer] == max(puzzle.rows[0])
        assert puzzle.final == puzzle.answer
        letters[puzzle.answer] += 1
    assert min(letters[letter] for letter in "ABCD") > 25


@pytest.mark.parametrize("make", MAKERS)
def test_a_shortcut_path_describes_the_picture_and_states_only_the_result(make):
    for puzzle in puzzles(make, 2, count=20):
        assert digits_in_description(puzzle.shortcut_path) == digits_in_description(puzzle.path)
        reward = rewards.score(
            [puzzle.shortcut_path, puzzle.path], [{"answer": puzzle.answer, "key_steps": puzzle.key_steps}] * 2
        )
        assert reward.answer_correct.tolist() == reward.step_validity.tolist() == [1, 1]
        assert reward.key_step_match.tolist() == [0, 1]


def test_row_sums_add_the_row_in_question():
    for puzzle in puzzles(MAKERS[1], 2):
        row = puzzle.rows["bottom" in puzzle.question]
        assert int(puzzle.answer) == sum(map(int, row))
        assert puzzle.description == " ".join(puzzle.rows)


def test_largest_and_counts_by_hand():
    for puzzle in puzzles(make_largest, 3):
        digits = list(map(int, puzzle.rows[0]))
        sign = 1 if "plus" in puzzle.question else -1
        assert int(puzzle.answer) == max(digits) + sign * min(digits)
    for puzzle in puzzles(make_count, 3):
        bound = int(re.search(r"greater than (\d)", puzzle.question)[1])
        assert int(puzzle.answer) == sum(int(digit) > bound for digit in puzzle.rows[0])


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize("make", MAKERS)
def test_paths_contain_their_key_steps_and_digits(make, difficulty):
    for puzzle in puzzles(make, difficulty, count=50):
        steps = " ".join(puzzle.steps)
        assert puzzle.key_steps
        for group in puzzle.key_steps:
            assert any(re.search(rf"(?<!\d){re.escape(spelling)}(?!\d)", steps) for spelling in group)
        assert digits_in_description(puzzle.path) == "".join(re.findall(r"\d", "".join(puzzle.rows)))


def test_spellings_of_a_product():
    puzzle = next(p for p in puzzles(make_expression, 1) if re.fullmatch(r"[2-4]\*[5-9]", p.description))
    a, b, c = puzzle.description[0], puzzle.description[-1], puzzle.answer
    plain = {f"{a}*{b}={c}", f"{c}={a}*{b}", f"{b}*{a}={c}", f"{a} * {b} = {c}", f"{a} x {b} = {c}"}
    assert {*plain, rf"{a} \times {b} = {c}", f"{a} times {b} is {c}"} <= set(puzzle.key_steps[0])


@pytest.mark.parametrize("text", ["", "3 + 5", "### The final answer is:\n8"])
def test_a_text_without_description_has_no_digits(text):
    assert digits_in_description(text) == ""
