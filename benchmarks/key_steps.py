"""How good key steps by rule are: solutions in four styles whose steps are known, and paths with planted errors.

    python -m benchmarks.key_steps [--problems=50]

Each problem has a worked solution in the style of a data set, from which the rule takes key steps, and two paths by
another author, in other spellings: a right one, and one with an error in one of its steps, which goes on with the wrong
number or leaves the step out. The right path should earn all key steps, the wrong one none that it does not have, and
those of other problems none.
"""

import argparse
import dataclasses
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table

from r1vl_jax import response_format, rewards
from r1vl_jax.data.key_steps import key_steps_by_rule
from r1vl_jax.observe.markdown import markdown_table, provenance

_WORD = {"+": "plus", "-": "minus", "*": "times"}
_NOUN = {"+": "sum", "-": "difference", "*": "product"}
_LATEX = {"+": "+", "-": "-", "*": r"\times"}
_COMPUTE: dict[str, Callable[[float, float], float]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
}


@dataclass(frozen=True)
class Step:
    """A computation with its value, and the name of the quantity that it finds."""

    name: str
    left: float
    operator: str
    right: float
    value: float

    def write(self, form: str) -> str:
        """In a form with {l}, {r}, {v}, {o}, {word}, {noun}, {latex} and {name}."""
        numbers = {"l": self.left, "r": self.right, "v": self.value}
        words = {"o": self.operator, "word": _WORD[self.operator], "noun": _NOUN[self.operator]}
        return form.format(
            **{key: f"{number:.10g}" for key, number in numbers.items()},
            **words,
            latex=_LATEX[self.operator],
            name=self.name,
        )


@dataclass(frozen=True)
class Style:
    """How a data set writes solutions.

    Attributes:
        names: of the quantities, one for each step.
        form: of a step.
        frame: makes a solution of its steps and the answer.
    """

    names: tuple[str, ...]
    form: str
    frame: Callable[[Sequence[str], str], str]
    has_decimals: bool = False
    has_small_numbers: bool = False


def _in_sections(steps: Sequence[str], answer: str) -> str:
    return response_format.compose("A picture with numbers.", "Go step by step.", list(steps), answer)


STYLES = {
    "Mulberry": Style(
        ("squares in the rows", "squares with the rest", "squares in all boxes"),
        r"The number of {name} is \( {l} {latex} {r} = {v} \).",
        _in_sections,
    ),
    "GSM8K": Style(
        ("clips in April", "clips in May", "clips altogether"),
        "She sold {l}{o}{r} = <<{l}{o}{r}={v}>>{v} {name}.",
        lambda steps, answer: "\n".join([*steps, f"#### {answer}"]),
    ),
    "Geometry3K": Style(
        ("AB", "CD", r"\angle AEF"),
        "By the theorem, ${name} = {l} {latex} {r} = {v}$.",
        lambda steps, answer: " ".join([*steps, rf"The answer is \boxed{{{answer}}}."]),
    ),
    "ChartQA": Style(
        ("value for 2018", "difference between them", "average of the countries"),
        "The {name} is {l} {o} {r} = {v}.",
        lambda steps, answer: f"{' '.join(steps)} The answer is {answer}.",
        has_decimals=True,
    ),
}
STYLES["GSM8K, small numbers"] = dataclasses.replace(STYLES["GSM8K"], has_small_numbers=True)
# As other authors write a step; the rule does not know the last three.
_FORMS = (
    "Now {l} {o} {r} = {v}.",
    "{l}{o}{r}={v}",
    "We compute $ {l} {latex} {r} = {v} $, which we need.",
    "Here {l} {word} {r} is {v}.",
    "So we have {v} = {l} {o} {r}.",
    "The {name}: {l} {o} {r} = {v}",
    "The {name} is {v}, since {l} {word} {r} equals {v}.",
    "The {noun} of {l} and {r} is {v}.",
    "Taking {l} {word} {r}, one gets {v}.",
    "The result of {l} and {r} is {v} here.",
)


def make_steps(rng: random.Random, style: Style) -> list[Step]:
    """A chain of computations, each with the value of the one before; values have at least two digits, or few."""
    if style.has_small_numbers:
        return _small_steps(rng, style)
    steps, value = [], rng.randint(120, 900) / (10 if style.has_decimals else 1)
    for name in style.names:
        operator = rng.choice("+-*" if value < 1_000 else "+-")
        right = float(rng.randint(3, 9) if operator == "*" else rng.randint(11, 99))
        operator = "+" if operator == "-" and value - right < 10 else operator
        result = round(_COMPUTE[operator](value, right), 6)
        steps.append(Step(name, value, operator, right, result))
        value = result
    return steps


def _small_steps(rng: random.Random, style: Style) -> list[Step]:
    steps, value = [], float(rng.randint(3, 9))
    for name in style.names:
        right = float(rng.randint(2, 9))
        operator = "-" if value > right and rng.random() < 0.5 else "+"
        steps.append(Step(name, value, operator, right, _COMPUTE[operator](value, right)))
        value = steps[-1].value
    return steps


def plant_error(rng: random.Random, steps: Sequence[Step]) -> tuple[list[Step], list[int]]:
    """A wrong path, and the numbers of the steps that it does not have."""
    first = rng.randrange(len(steps) - 1)
    if rng.random() < 1 / 3:  # a step is left out
        return [step for number, step in enumerate(steps) if number != first], [first]
    wrong = dataclasses.replace(steps[first], value=steps[first].value + rng.choice((-9, -2, -1, 1, 3, 10)))
    path = [*steps[:first], wrong]
    for step in steps[first + 1 :]:
        left = path[-1].value
        path.append(dataclasses.replace(step, left=left, value=round(_COMPUTE[step.operator](left, step.right), 6)))
    return path, list(range(first, len(steps)))


def write_path(rng: random.Random, steps: Sequence[Step], forms: Sequence[str]) -> str:
    """A path by another author."""
    return _in_sections([step.write(rng.choice(forms)) for step in steps], f"{steps[-1].value:.10g}")


def _step_of(group: Sequence[str], steps: Sequence[Step]) -> int | None:
    """The number of the step that a group states, as its computation or as its named quantity; None for no step."""
    written = {spelling.replace(" ", "").lower() for spelling in group}
    for number, step in enumerate(steps):
        forms = ("{l}{o}{r}={v}", "{name}={v}", "{name}is{v}")
        if written & {step.write(form).replace(" ", "").lower() for form in forms}:
            return number
    return None


def measure(style: Style, num_problems: int, *, seed: int = 0) -> dict[str, float]:
    """Shares, each of all its cases."""
    rng = random.Random(seed)
    counts = dict.fromkeys(("found", "true", "recalled", "all", "all_known", "undue", "chance"), 0)
    others: list[str] = []  # paths of the problems before
    for _ in range(num_problems):
        steps = make_steps(rng, style)
        answer = f"{steps[-1].value:.10g}"
        groups = key_steps_by_rule("How many are there?", style.frame([s.write(style.form) for s in steps], answer))
        numbers = [_step_of(group, steps) for group in groups]
        counts["found"] += len(groups)
        counts["true"] += sum(number is not None for number in numbers)
        counts["recalled"] += len(set(numbers) - {None})
        equations = [group for group, number in zip(groups, numbers, strict=True) if number is not None]
        counts["all_known"] += _earns_all(write_path(rng, steps, _FORMS[:-3]), equations)
        counts["all"] += _earns_all(right := write_path(rng, steps, _FORMS), equations)
        counts["chance"] += sum(any(rewards.key_step_spans(other, groups, semantics="paper")) for other in others)
        others.append(right)
        path, missing = plant_error(rng, steps)
        spans = rewards.key_step_spans(write_path(rng, path, _FORMS), groups, semantics="paper")
        counts["undue"] += any(found and number in missing for found, number in zip(spans, numbers, strict=True))
    num_steps = num_problems * len(style.names)
    return {
        "precision": counts["true"] / max(counts["found"], 1),
        "recall": counts["recalled"] / num_steps,
        "right, known spellings": counts["all_known"] / num_problems,
        "right, any spelling": counts["all"] / num_problems,
        "wrong that earns undue": counts["undue"] / num_problems,
        "another problem's that earns any": counts["chance"] / max(num_problems * (num_problems - 1) // 2, 1),
    }


def _earns_all(path: str, groups: Sequence[Sequence[str]]) -> bool:
    return all(rewards.key_step_spans(path, groups, semantics="paper"))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.key_steps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=50, help="of each style")
    arguments = parser.parse_args()
    results = {name: measure(style, arguments.problems) for name, style in STYLES.items()}
    table = Table("style")
    for header in next(iter(results.values())):
        table.add_column(header, justify="right")
    for name, shares in results.items():
        table.add_row(name, *(f"{share:.2f}" for share in shares.values()))
    print(provenance(["python", "-m", "benchmarks.key_steps", *sys.argv[1:]]), "", markdown_table(table), sep="\n")


if __name__ == "__main__":
    main()
