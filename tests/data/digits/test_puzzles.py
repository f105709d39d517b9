"""Puzzles of the embedded task: answers and steps against Python, spellings, and digits in a description."""

import re

import numpy as np
import pytest

from r1vl_jax import rewards
from r1vl_jax.data.digits.puzzles import HARD_KIND, KINDS, LENGTHS, Puzzle, digits_in_description

BY_DIFFICULTY = pytest.mark.parametrize("difficulty", [1, 2, 3])
BY_KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def puzzles(kind, difficulty, count=100):
    rng = np.random.default_rng(0)
    return [kind.draw(rng, difficulty) for _ in range(count)]


def score(path: str, puzzle: Puzzle) -> rewards.StepReward:
    return rewards.score([path], [{"answer": puzzle.answer, "key_steps": puzzle.key_steps}])


@BY_DIFFICULTY
@BY_KIND
def test_numbers_have_lengths_of_the_difficulty(kind, difficulty):
    lengths = {len(puzzle.digits) for puzzle in puzzles(kind, difficulty)}
    assert (min(lengths), max(lengths)) == LENGTHS[difficulty]
    assert all(puzzle.digits[0] != "0" for puzzle in puzzles(kind, difficulty))


@BY_DIFFICULTY
@BY_KIND
def test_steps_are_a_long_division(kind, difficulty):
    """Each takes a multiple of the divisor from the last rest with the next digit, and leaves less than the divisor."""
    for puzzle in puzzles(kind, difficulty):
        rest = puzzle.digits[0]
        assert len(puzzle.steps) == len(puzzle.digits) - 1
        for step, digit in zip(puzzle.steps, puzzle.digits[1:], strict=True):
            number, multiple, next_rest = map(int, re.fullmatch(r"(\d+)-(\d+)=(\d+)", step).groups())
            assert number == int(rest + digit)
            assert multiple % kind.divisor == 0
            assert 0 <= next_rest == number - multiple < kind.divisor
            rest = str(next_rest)
        assert puzzle.answer == rest == str(int(puzzle.digits) % kind.divisor)


def test_a_puzzle_by_hand():
    puzzle = Puzzle("by_23", "8953", 23, "What remains?")
    assert puzzle.steps == ("89-69=20", "205-184=21", "213-207=6")
    assert puzzle.answer == "6"
    assert puzzle.path.split("\n\n")[3:] == [
        "### Step 1:\n89-69=20",
        "### Step 2:\n205-184=21",
        "### Step 3:\n213-207=6",
        "### The final answer is:\n6",
    ]


def test_a_guess_of_the_hard_answer_is_right_in_less_than_one_of_twenty():
    answers = [puzzle.answer for puzzle in puzzles(HARD_KIND, 3, 4_000)]
    assert max(answers.count(answer) for answer in set(answers)) < 0.06 * len(answers)
    assert len(set(answers)) == HARD_KIND.divisor


@BY_KIND
def test_a_path_earns_everything_and_a_hasty_one_the_steps_it_takes(kind):
    for puzzle in puzzles(kind, 3, 20):
        for num_steps in range(len(puzzle.steps)):
            path = puzzle.hasty_path(num_steps)
            assert digits_in_description(path) == digits_in_description(puzzle.path) == puzzle.digits
            reward = score(path, puzzle)
            assert reward.answer_correct[0] == reward.step_validity[0] == 1
            matched = [any(spelling in puzzle.steps[:num_steps] for spelling in group) for group in puzzle.key_steps]
            assert reward.key_step_match[0] == pytest.approx(np.mean(matched))
        assert score(puzzle.path, puzzle).total[0] == pytest.approx(2.1)


@pytest.mark.parametrize("number", [0, 5, 22, 23, 89, 229])
def test_every_spelling_states_the_same_division(number):
    """A number of two digits has one step, which divides the number itself."""
    puzzle = Puzzle("by_23", f"{number:02}" if number < 100 else str(number), 23, "What remains?")
    rest = puzzle.answer
    for spelling in puzzle.key_steps[-1]:
        said = spelling.replace(r"\bmod", "%").replace("mod", "%").replace(" minus ", "-").replace(" is ", "=")
        said = said.replace(" leaves ", "%23=")
        left, right = (side.strip() for side in said.split("="))
        assert eval(left) == eval(right), spelling
        assert rest in (left, right) or right.endswith(f"+{rest}")


@pytest.mark.parametrize("text", ["", "3 + 5", "### The final answer is:\n8"])
def test_a_text_without_description_has_no_digits(text):
    assert digits_in_description(text) == ""
