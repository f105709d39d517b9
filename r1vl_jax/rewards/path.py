"""The sections that a completion is made of, found by their headings; a heading counts at the start of a line."""

import re
from dataclasses import dataclass

from r1vl_jax import response_format

_STEP_NUMBER = rb"([0-9]+):"
STEP_HEADING = re.compile(re.escape(response_format.STEP.encode()) + _STEP_NUMBER)
_HEADING = re.compile(
    rb"^(?:(?P<step>" + STEP_HEADING.pattern + rb")|"
    rb"(?P<other>"
    + b"|".join(re.escape(h.encode()) for h in response_format.HEADINGS if h != response_format.STEP)
    + rb"))",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it.

    Attributes:
        heading: one of `response_format.HEADINGS`.
        number: of a step; 0 for other sections.
        start: byte offset of the heading.
        body: the text up to the next heading, without white space around it; it may begin on the heading's own line.
    """

    heading: str
    number: int
    start: int
    body: bytes


def find_sections(path: bytes) -> list[Section]:
    """All sections of a completion, in the order they stand."""
    headings = list(_HEADING.finditer(path))
    starts = [heading.start() for heading in headings] + [len(path)]
    return [_section(path, heading, end) for heading, end in zip(headings, starts[1:], strict=True)]


def has_all_parts(found: list[Section]) -> bool:
    """Whether description, rationale, at least one step and the final answer are there, none of them empty."""
    wanted = {response_format.DESCRIPTION, response_format.RATIONALE, response_format.STEP, response_format.ANSWER}
    return wanted <= {section.heading for section in found if section.body}


def is_in_order(found: list[Section]) -> bool:
    """Whether the headings stand in logical order; a path without steps has none.

    Description and rationale come before the first step, the answer after the last; each of the three is there once
    at most; steps are numbered 1, 2, ...
    """
    place_of: dict[str, list[int]] = {heading: [] for heading in response_format.HEADINGS}
    for place, section in enumerate(found):
        place_of[section.heading].append(place)
    steps, answers = place_of[response_format.STEP], place_of[response_format.ANSWER]
    openings = place_of[response_format.DESCRIPTION] + place_of[response_format.RATIONALE]
    return (
        bool(steps)
        and [found[place].number for place in steps] == list(range(1, len(steps) + 1))
        and all(place < steps[0] for place in openings)
        and all(place > steps[-1] for place in answers)
        and all(
            len(place_of[h]) <= 1
            for h in (response_format.DESCRIPTION, response_format.RATIONALE, response_format.ANSWER)
        )
    )


def answer_start(found: list[Section]) -> int | None:
    """Byte offset of the first answer heading."""
    return next((section.start for section in found if section.heading == response_format.ANSWER), None)


def credit_ends(found: list[Section], length: int) -> list[int]:
    """Where the sections that earn credit end, in bytes: all before the first step, each step, the final answer.

    The text is cut before every step heading and before the first answer heading; a path with neither is one section.
    """
    steps = {section.start for section in found if section.heading == response_format.STEP}
    answer = answer_start(found)
    return [*sorted(steps if answer is None else steps | {answer}), length]


def to_number(digits: bytes) -> int:
    """The number of a step; -1, which is never in order, where the digits run wild."""
    return int(digits) if len(digits) < 10 else -1


def _section(path: bytes, heading: re.Match[bytes], end: int) -> Section:
    is_step = heading["step"] is not None
    return Section(
        heading=response_format.STEP if is_step else heading["other"].decode(),
        number=to_number(heading[2]) if is_step else 0,
        start=heading.start(),
        body=path[heading.end() : end].strip(),
    )
