"""Reads tests/rewards/answers/cases.txt."""

from pathlib import Path
from typing import NamedTuple

CASES_FILE = Path(__file__).parents[1] / "rewards" / "answers" / "cases.txt"


class Case(NamedTuple):
    kind: str
    gold: str
    prediction: str
    is_right: bool


def read_cases() -> list[Case]:
    """Every case of the table."""
    cases, kind, gold = [], "", ""
    for line in CASES_FILE.read_text().splitlines():
        name, _, rest = line.partition(" ")
        if line.startswith("["):
            kind = line.strip("[]")
        elif name == "gold":
            gold = rest.strip()
        elif name in ("right", "wrong"):
            cases += [Case(kind, gold, text.strip(), name == "right") for text in rest.split("¦")]
    return cases
