"""Answers made from values: for each kind the values, the spellings of a value, and the wrappings that it may have."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from hypothesis import strategies as st

WRAPPINGS = (
    *("{}", " {} ", "{}.", "**{}**", "*{}*", "`{}`", '"{}"', "${}$", "$${}$$", r"\({}\)", r"\[{}\]", r"\boxed{{{}}}"),
    *(r"$\boxed{{{}}}$", "The final answer is {}", "the answer is: {}", "Answer: {}", "**Answer:** {}", r"\fbox{{{}}}"),
)
TEXT_WRAPPINGS = (r"\text{{{}}}", r"\boxed{{\text{{{}}}}}", r"\textbf{{{}}}", "“{}”")
OPTION_WRAPPINGS = ("Option {}", "choice {}", "the correct option is {}", r"\text{{{}}}", "The correct answer is {}")
UNITS = {
    "m": ["m", "meters"],
    "km": ["km", "kilometers", "kilometres"],
    "cm": ["cm", "centimeters"],
    "cm2": ["cm^2", "cm²", "square centimeters"],
    "kg": ["kg", "kilograms"],
    "g": ["g", "grams"],
    "mW": ["mW", "milliwatts"],
    "MW": ["MW", "megawatts"],
    "km/h": ["km/h", "km per hour"],
    "deg": ["°", "degrees", r"^\circ"],
    "C": ["°C", "degrees Celsius"],
    "s": ["s", "seconds"],
    "apple": ["apples", "Apples"],
}
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October"]
WORDS = ["red", "green", "north", "triangle", "London", "larger", "figure", "above", "Berlin", "quadrant", "whale"]


@dataclass(frozen=True)
class Kind:
    """One kind of answers.

    Attributes:
        values: what answers of this kind mean.
        spell: all spellings of a value that mean the same.
        wrappings: what a spelling may be written in.
    """

    values: st.SearchStrategy[Any]
    spell: Callable[[Any], list[str]]
    wrappings: tuple[str, ...] = WRAPPINGS


def spell_number(value: Fraction) -> list[str]:
    a, b = value.numerator, value.denominator
    spellings = [f"{2 * a}/{2 * b}", rf"\frac{{{a}}}{{{b}}}", f"{str(a).replace('-', '−')}/{b}"]
    if b == 1:
        spellings += [str(a), f"{a}.0", f"{a:,}"]
    if 1000 % b == 0:
        spellings += [f"{a / b:.3f}", f"{100 * a / b:.1f}%"]
    if abs(a) > b > 1:
        spellings += [f"{'-' if a < 0 else ''}{abs(a) // b} {abs(a) % b}/{b}"]
    return spellings


def _spell_list(numbers: tuple[int, ...]) -> list[str]:
    texts = [str(number) for number in numbers]
    return [", ".join(texts), " and ".join(texts[::-1]), "{" + ",".join(texts) + "}", r"\{" + ", ".join(texts) + r"\}"]


_FRACTIONS = st.builds(Fraction, st.integers(-5_000, 5_000), st.sampled_from([1, 1, 1, 2, 3, 4, 7, 10]))
_SMALL = st.integers(-40, 40)

KINDS: dict[str, Kind] = {
    "option": Kind(
        st.sampled_from("ABCDEFGHIJ"),
        lambda letter: [letter, letter.lower(), f"({letter})", f"{letter})", f"{letter}: 45", f"{letter}) 7 cm"],
        (*WRAPPINGS, *OPTION_WRAPPINGS),
    ),
    "words": Kind(
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(tuple),
        lambda words: [" ".join(words), "  ".join(words).upper(), " ".join(words).title()],
        (*WRAPPINGS, *TEXT_WRAPPINGS),
    ),
    "number": Kind(_FRACTIONS, spell_number),
    "number with unit": Kind(
        st.tuples(st.integers(0, 500), st.sampled_from(sorted(UNITS))),
        lambda value: [f"{value[0]} {unit}" for unit in UNITS[value[1]]],
    ),
    "list": Kind(st.lists(_SMALL, min_size=2, max_size=4).map(sorted).map(tuple), _spell_list),
    "pair": Kind(st.tuples(_SMALL, _SMALL), lambda pair: [f"({pair[0]}, {pair[1]})", f"({pair[0]},{pair[1]}.0)"]),
    "interval": Kind(
        st.tuples(st.sampled_from("(["), _SMALL, _SMALL, st.sampled_from(")]")).filter(lambda v: v[0] + v[3] != "()"),
        lambda v: [f"{v[0]}{v[1]},{v[2]}{v[3]}", rf"\left{v[0]} {v[1]}, {v[2]} \right{v[3]}"],
    ),
    "range": Kind(
        st.tuples(st.integers(0, 3_000), st.integers(0, 3_000)),
        lambda v: [f"{v[0]}-{v[1]}", f"{v[0]}–{v[1]}", f"{v[0]} to {v[1]}"],
    ),
    "time": Kind(
        st.tuples(st.integers(1, 12), st.integers(0, 59), st.sampled_from("ap")),
        lambda v: [f"{v[0]}:{v[1]:02} {v[2]}m", f"{v[0]:02}:{v[1]:02} {v[2].upper()}M", f"{v[0]}:{v[1]:02} {v[2]}.m."],
    ),
    "date": Kind(
        st.tuples(st.integers(1900, 2030), st.integers(1, 10), st.integers(1, 28)),
        lambda v: [
            f"{MONTHS[v[1] - 1]} {v[2]}, {v[0]}",
            f"{v[2]} {MONTHS[v[1] - 1][:3]} {v[0]}",
            f"{v[0]}-{v[1]:02}-{v[2]:02}",
        ],
    ),
    "name = value": Kind(
        st.tuples(st.sampled_from(["x", "y", "AB", r"\theta", "x_1"]), _SMALL),
        lambda v: [f"{v[0]} = {v[1]}", f"{v[0]}={v[1]}.0"],
    ),
    "mathematics": Kind(
        st.tuples(st.integers(2, 9), st.sampled_from([2, 3, 5, 6, 7])),
        lambda v: [rf"{v[0]}\sqrt{{{v[1]}}}", f"{v[0]}√{v[1]}", rf"{v[0]} \sqrt {v[1]}"],
    ),
}


def written(kind: Kind, value: Any) -> st.SearchStrategy[str]:
    """A spelling of a value, in up to two wrappings."""
    wrapping = st.sampled_from(kind.wrappings)
    return st.builds(
        lambda text, inner, outer: outer.format(inner.format(text)),
        st.sampled_from(kind.spell(value)),
        wrapping,
        st.sampled_from(["{}", "「{}」", r"\boxed{{{}}}", "Answer: {}"]),
    )
