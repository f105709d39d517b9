"""Versions of the scoring rules, which changed in 2025 and 2026; figures of different versions are not comparable."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rules:
    """What differs between the versions.

    Attributes:
        name: the month at whose end the rules were in force, year first.
        last_tokens: an option's letter counts only among so many tokens at the end; None for anywhere.
        reads_phrase: whether the letter in "answer is X" names the option where no single letter does.
        limits_length: whether a response longer than twice all options together names none of them by its text.
        divides_by_reference: whether ChartQA's relative error is that to the reference, rather than to the prediction.
    """

    name: str
    last_tokens: int | None
    reads_phrase: bool
    limits_length: bool
    divides_by_reference: bool


RULES = {
    rules.name: rules
    for rules in (
        Rules("2025-03", last_tokens=None, reads_phrase=False, limits_length=False, divides_by_reference=False),
        Rules("2026-08", last_tokens=4, reads_phrase=True, limits_length=True, divides_by_reference=True),
    )
}
