"""Problems of the embedded task: the symbols in the picture, the question, and a reasoning path to the answer."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from r1vl_jax.response_format import DESCRIPTION, compose

_WORDS = {"+": "plus", "-": "minus", "*": "times"}
_OTHER_SIGNS = {"+": (), "-": (), "*": ("x", r"\times")}
_LETTERS = "ABCD"
_SHORTCUT_RATIONALE = "At once."
OPENINGS = ("", "Plan: ", "Idea: ")  # prefixes of a rationale, so that reference paths vary in wording


@dataclass(frozen=True)
class Puzzle:
    """A question about one picture.

    Attributes:
        kind: type of question.
        rows: the symbols of the picture, row by row.
        description: the same symbols, as the image description of a reasoning path gives them.
        rationale: the plan of a reasoning path.
        steps: one statement each, in order.
        answer: a number or the letter of an option.
        final: the answer as a reasoning path states it.
        key_steps: groups of equivalent spellings of what the steps state.
    """

    kind: str
    rows: tuple[str, ...]
    description: str
    question: str
    rationale: str
    steps: tuple[str, ...]
    answer: str
    final: str
    key_steps: tuple[tuple[str, ...], ...]

    @property
    def path(self) -> str:
        """The reference reasoning path, in sections."""
        return self.path_with_opening("")

    def path_with_opening(self, opening: str) -> str:
        """The reference reasoning path, with a prefix before the rationale."""
        return compose(self.description, opening + self.rationale, list(self.steps), self.final)

    @property
    def shortcut_path(self) -> str:
        """A path with a single step, which states the result without the steps that lead to it."""
        return compose(self.description, _SHORTCUT_RATIONALE, [f"result={self.answer}"], self.final)


def make_expression(rng: np.random.Generator, difficulty: int) -> Puzzle:
    """The value of an expression of 1 (difficulty 1) or 2 operators, at most one of which multiplies."""
    terms = _draw_terms(rng, difficulty)
    steps, value = _evaluate(terms)
    return Puzzle(
        kind="expression",
        rows=("".join(terms),),
        description="".join(terms),
        question="What is the value?",
        rationale=_precedence(terms),
        steps=tuple(_equation(*step) for step in steps),
        answer=str(value),
        final=str(value),
        key_steps=tuple(_spellings(*step) for step in steps),
    )


def make_row_sum(rng: np.random.Generator, difficulty: int) -> Puzzle:
    """The sum of one of two rows, of 2 digits (difficulty 1) or 3 each."""
    rows = [_draw_digits(rng, 2 if difficulty == 1 else 3) for _ in range(2)]
    asked = int(rng.integers(2))
    name = ("top", "bottom")[asked]
    steps, value = _evaluate(list(" + ".join(rows[asked]).split()))
    return Puzzle(
        kind="row_sum",
        rows=tuple(rows),
        description=" ".join(rows),
        question=f"What is the sum of the {name} row?",
        rationale=f"Add the {name} row.",
        steps=tuple(_equation(*step) for step in steps),
        answer=str(value),
        final=str(value),
        key_steps=tuple(_spellings(*step) for step in steps),
    )


def make_largest(rng: np.random.Generator, difficulty: int) -> Puzzle:
    """The largest digit of a row of 2 to 4, plus or minus the smallest."""
    row = _draw_digits(rng, int(rng.integers(2, difficulty + 2)))
    largest, smallest = max(row), min(row)
    sign = str(rng.choice(["+", "-"]))
    step = (int(largest), sign, int(smallest))
    return Puzzle(
        kind="largest",
        rows=(row,),
        description=row,
        question=f"What is the largest digit {_WORDS[sign]} the smallest?",
        rationale="Find both digits.",
        steps=(f"largest={largest}", f"smallest={smallest}", _equation(*step)),
        answer=str(_value(*step)),
        final=str(_value(*step)),
        key_steps=(
            _extremum_spellings("largest", largest),
            _extremum_spellings("smallest", smallest),
            _spellings(*step),
        ),
    )


def make_count(rng: np.random.Generator, difficulty: int) -> Puzzle:
    """How many digits of a row of 1 to 4 exceed a number."""
    row, bound = _draw_digits(rng, int(rng.integers(1, difficulty + 2))), int(rng.integers(1, 9))
    greater = [digit for digit in row if int(digit) > bound]
    count = len(greater)
    compared = ", ".join(f"{digit}>{bound}" for digit in greater) or f"none>{bound}"
    comparisons = [
        (f"{digit}>{bound}", f"{bound}<{digit}", f"{digit} is greater than {bound}") for digit in sorted(set(greater))
    ]
    return Puzzle(
        kind="count",
        rows=(row,),
        description=row,
        question=f"How many digits are greater than {bound}?",
        rationale=f"Compare each digit to {bound}.",
        steps=(compared, f"count={count}"),
        answer=str(count),
        final=str(count),
        key_steps=(*comparisons, (f"count={count}", f"{count}=count", f"count is {count}")),
    )


def make_choice(rng: np.random.Generator, difficulty: int) -> Puzzle:
    """Which of four options is the largest digit of a row of 1 to 4."""
    row = _draw_digits(rng, int(rng.integers(1, difficulty + 2)))
    largest = max(row)
    others = rng.choice([digit for digit in "0123456789" if digit != largest], 3, replace=False)
    options = [str(option) for option in rng.permutation([largest, *others])]
    letter = _LETTERS[options.index(largest)]
    listed = " ".join(f"{name}{option}" for name, option in zip(_LETTERS, options, strict=True))
    return Puzzle(
        kind="choice",
        rows=(row,),
        description=row,
        question=f"Which is the largest digit? {listed}",
        rationale="Find the largest digit.",
        steps=(f"largest={largest}", f"{largest}={letter}"),
        answer=letter,
        final=letter,
        key_steps=(
            _extremum_spellings("largest", largest),
            (f"{largest}={letter}", f"{letter}={largest}", f"{letter}: {largest}"),
        ),
    )


MAKERS: tuple[Callable[[np.random.Generator, int], Puzzle], ...] = (
    make_expression,
    make_row_sum,
    make_largest,
    make_count,
    make_choice,
)


def digits_in_description(path: str) -> str:
    """The digits in the image description of a path, in order; "" if it has none."""
    _, _, rest = path.partition(DESCRIPTION)
    return "".join(re.findall("[0-9]", rest.partition("###")[0]))


def _draw_digits(rng: np.random.Generator, count: int) -> str:
    return "".join(str(digit) for digit in rng.integers(10, size=count))


def _draw_terms(rng: np.random.Generator, difficulty: int) -> list[str]:
    """Alternating numbers and operators: 2 or 3 numbers, the first of two digits at difficulty 3."""
    numbers = [str(number) for number in rng.integers(10, size=min(difficulty, 2) + 1)]
    if difficulty == 3:
        numbers[0] = str(rng.integers(10, 100))
    operators = list(rng.choice(["+", "-"], size=len(numbers) - 1))
    if rng.random() < 2 / 3:
        operators[rng.integers(len(operators))] = "*"
    return [term for pair in zip(numbers, [*operators, ""], strict=True) for term in pair][:-1]


def _extremum_spellings(which: str, digit: str) -> tuple[str, ...]:
    """That the largest (or smallest) digit is this one, in equivalent spellings."""
    return (f"{which}={digit}", f"{digit}={which}", f"{which} is {digit}", f"{digit} is the {which}")


def _precedence(terms: list[str]) -> str:
    if len(terms) == 3:
        return "One operation."
    return "Multiply first." if "*" in terms else "Left to right."


def _evaluate(terms: list[str]) -> tuple[list[tuple[int, str, int]], int]:
    """The operations that evaluate an expression, products first, and its value."""
    terms, steps = list(terms), []
    while len(terms) > 1:
        position = terms.index("*") if "*" in terms else 1
        step = (int(terms[position - 1]), terms[position], int(terms[position + 1]))
        steps.append(step)
        terms[position - 1 : position + 2] = [str(_value(*step))]
    return steps, int(terms[0])


def _value(left: int, operator: str, right: int) -> int:
    return {"+": left + right, "-": left - right, "*": left * right}[operator]


def _equation(left: int, operator: str, right: int) -> str:
    return f"{left}{operator}{right}={_value(left, operator, right)}"


def _spellings(left: int, operator: str, right: int) -> tuple[str, ...]:
    """An operation in equivalent spellings: either side first, plain, in LaTeX, in words."""
    value = _value(left, operator, right)
    orders = [(left, right)] if operator == "-" or left == right else [(left, right), (right, left)]
    signs = (operator, f" {operator} ", *(f" {sign} " for sign in _OTHER_SIGNS[operator]))
    plain = [f"{a}{sign}{b}" for sign in signs for a, b in orders]
    equal = ["=" if " " not in side else " = " for side in plain]
    forwards = [f"{side}{sign}{value}" for side, sign in zip(plain, equal, strict=True)]
    backwards = [f"{value}{sign}{side}" for side, sign in zip(plain, equal, strict=True)]
    spoken = [f"{a} {_WORDS[operator]} {b} is {value}" for a, b in orders]
    return (*forwards, *backwards, *spoken)
