"""The kinds of answers.

Option      B   (B)   B: 45
Quantity    a number: 12   -1,234.5   3/4   1 1/2   50%   1.2e3   5 million
            a number with unit: 3 km   $5   90°   5 apples
            mathematics: 2x+3   \\sqrt{3}   x > 5
Items       a list: 1, 2   {1, 2}   red and blue      a pair: (1, 2)      an interval: [2, 5)      5 or 6
Range       10-12
Time, Date  1:30 pm   March 5, 2020
Ratio       3:4
Named       x = 5
Words       Yes   New York   Figure 2A
"""

from dataclasses import dataclass, field
from fractions import Fraction

from r1vl_jax.rewards.answers import numbers, units
from r1vl_jax.rewards.answers.dates import Date, Ratio, Time
from r1vl_jax.rewards.answers.units import Unit


@dataclass(frozen=True)
class Option:
    """A letter of a multiple-choice question, A to J, and the text behind it, if any."""

    letter: str
    text: str = ""
    kind = "option"

    def __str__(self) -> str:
        return f"{self.letter}: {self.text}" if self.text else self.letter


@dataclass(frozen=True)
class Quantity:
    """A number or a mathematical expression, and its unit.

    Attributes:
        value: the exact value; an expression, as LaTeX, where it is not a plain number.
        unit: of measurement, or currency.
        noun: what is counted (`apple`), where it is no unit.
        may_be_variable: whether the unit is one letter right behind the number, which may be a variable: `5m`.
    """

    value: Fraction | str
    unit: Unit = units.DIMENSIONLESS
    noun: str = ""
    may_be_variable: bool = field(default=False, compare=False)

    @property
    def kind(self) -> str:
        if self.unit or self.noun:
            return "number with unit"
        return "mathematics" if isinstance(self.value, str) else "number"

    def __str__(self) -> str:
        value = self.value if isinstance(self.value, str) else numbers.to_text(self.value)
        return " ".join(part for part in (value, units.to_text(self.unit), self.noun) if part)


@dataclass(frozen=True)
class Items:
    """Several answers.

    Attributes:
        brackets: "" for a list in any order; "()" for a pair or tuple; "[]", "[)", "(]" for an interval or, with other
            than two items, a tuple; "or" for alternatives.
    """

    items: "tuple[Answer, ...]"
    brackets: str = ""

    @property
    def kind(self) -> str:
        if self.brackets == "" and all(isinstance(item, Option) for item in self.items):
            return "option"
        return "interval" if self.brackets in ("[]", "[)", "(]") and len(self.items) == 2 else "list"

    def __str__(self) -> str:
        if self.brackets == "or":
            return " or ".join(map(str, self.items))
        opening, closing = self.brackets or "{}"
        return opening + ", ".join(map(str, self.items)) + closing


@dataclass(frozen=True)
class Range:
    """Two bare numbers with a dash between them: `10-12`."""

    low: Fraction
    high: Fraction
    kind = "range"

    def __str__(self) -> str:
        return f"{self.low}-{self.high}"


@dataclass(frozen=True)
class Named:
    """`name = value`."""

    name: str
    value: "Answer"
    kind = "name = value"

    def __str__(self) -> str:
        return f"{self.name} = {self.value}"


@dataclass(frozen=True)
class Words:
    """Any other text: its words, case-folded."""

    words: tuple[str, ...]

    @property
    def kind(self) -> str:
        return "yes/no" if self.words in _YES_NO else "words"

    def __str__(self) -> str:
        return " ".join(self.words)


Answer = Option | Quantity | Items | Range | Named | Time | Ratio | Date | Words

_YES_NO = {("yes",), ("no",), ("true",), ("false",), ("是",), ("否",), ("不是",)}
