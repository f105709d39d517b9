"""Puzzles of the embedded task: the remainder of a handwritten number, by long division, a step for each digit."""

import re
from dataclasses import dataclass

import numpy as np

from r1vl_jax.response_format import DESCRIPTION, compose

_RATIONALE = "Long division."


@dataclass(frozen=True)
class Puzzle:
    """A handwritten number, and what it leaves when it is divided.

    Long division goes from left to right: the last remainder, with the next digit behind it, minus the largest multiple
    of the divisor, is the next remainder. Steps build on each other, and only the last tells the answer.

    Attributes:
        kind: name of one of `KINDS`.
        digits: the picture.
    """

    kind: str
    digits: str
    divisor: int
    question: str

    @property
    def answer(self) -> str:
        return str(int(self.digits) % self.divisor)

    @property
    def steps(self) -> tuple[str, ...]:
        """One subtraction for each digit after the first."""
        return tuple(f"{number}-{number - rest}={rest}" for number, rest in self._divisions())

    @property
    def key_steps(self) -> tuple[tuple[str, ...], ...]:
        """What the steps state, each in equivalent spellings."""
        return tuple(_spellings(number, self.divisor, rest) for number, rest in self._divisions())

    @property
    def path(self) -> str:
        """The reference reasoning path, in sections."""
        return self.path_with(self.steps)

    def hasty_path(self, num_steps: int) -> str:
        """A path with the right answer that states it after so many steps, without the others."""
        return self.path_with((*self.steps[:num_steps], f"remainder={self.answer}"))

    def path_with(self, steps: tuple[str, ...]) -> str:
        """A path with the right description and answer, and these steps."""
        return compose(self.digits, _RATIONALE, list(steps), self.answer)

    def _divisions(self) -> list[tuple[int, int]]:
        """The numbers that long division divides, with their remainders."""
        divisions, rest = [], int(self.digits[0])
        for digit in self.digits[1:]:
            number = 10 * rest + int(digit)
            rest = number % self.divisor
            divisions.append((number, rest))
        return divisions


@dataclass(frozen=True)
class Kind:
    """Puzzles that are asked in one way.

    Attributes:
        question: with a place for the divisor.
    """

    name: str
    divisor: int
    question: str

    def draw(self, rng: np.random.Generator, difficulty: int) -> Puzzle:
        """A puzzle with a random number, whose first digit is not 0.

        Args:
            difficulty: 1 to 3; see `LENGTHS`.
        """
        fewest, most = LENGTHS[difficulty]
        length = rng.integers(fewest, most + 1)
        number = rng.integers(10 ** (length - 1), 10**length)
        return Puzzle(self.name, str(number), self.divisor, self.question.format(self.divisor))


LENGTHS = {1: (2, 3), 2: (4, 5), 3: (5, 6)}  # fewest and most digits of a number, by difficulty
_REMAINDER, _STEP_BY_STEP = "What is the remainder by {}?", "Divide by {} step by step. What remains?"
EASY_KINDS = (Kind("by_13", 13, _REMAINDER), Kind("by_23_stepwise", 23, _STEP_BY_STEP))
HARD_KIND = Kind("by_23", 23, _REMAINDER)
KINDS = (*EASY_KINDS, HARD_KIND)


def digits_in_description(path: str) -> str:
    """The digits in the image description of a path, in order; "" if it has none."""
    _, _, rest = path.partition(DESCRIPTION)
    return "".join(re.findall("[0-9]", rest.partition("###")[0]))


def _spellings(number: int, divisor: int, rest: int) -> tuple[str, ...]:
    """That a number leaves this rest: as a subtraction, as a product and a rest, with `mod`, in LaTeX, in words."""
    quotient = number // divisor
    multiple = quotient * divisor
    return (
        f"{number}-{multiple}={rest}",
        f"{number} - {multiple} = {rest}",
        f"{rest}={number}-{multiple}",
        f"{number}={multiple}+{rest}",
        f"{number}={quotient}*{divisor}+{rest}",
        f"{number} mod {divisor}={rest}",
        rf"{number} \bmod {divisor}={rest}",
        f"{number} minus {multiple} is {rest}",
        f"{number} leaves {rest}",
    )
