"""The sections of a completion, found by their headings: a heading opens a section at the start of a line only."""

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
    """A heading and the text below it.

    Attributes:
        heading: one of `response_format.HEADINGS`.
        number: the number of a step; 0 for other sections.
        start: byte offset of the heading.
        body: the text up to the next heading, stripped; it may begin on the line of the heading.
    """

    heading: str
    number: int
    start: int
    body: bytes


def find_sections(completion: bytes) -> list[Section]:
    """All sections of a completion, in the order of the text."""
    headings = list(_HEADING.finditer(completion))
    starts = [heading.start() for heading in headings] + [len(completion)]
    return [_section(completion, heading, end) for heading, end in zip(headings, starts[1:], strict=True)]


def has_all_parts(found: list[Section]) -> bool:
    """Whether description, rationale, at least one step and final answer are present, each with a body."""
    required = {response_format.DESCRIPTION, response_format.RATIONALE, response_format.STEP, response_format.ANSWER}
    return required <= {section.heading for section in found if section.body}


def is_in_order(found: list[Section]) -> bool:
    """Whether the sections are in logical order; without a step they are not.

    Description and rationale come before the first step, the answer after the last; each of the three occurs at most
    once; steps are numbered 1, 2, ...
    """
    indices: dict[str, list[int]] = {heading: [] for heading in response_format.HEADINGS}
    for index, section in enumerate(found):
        indices[section.heading].append(index)
    steps, answers = indices[response_format.STEP], indices[response_format.ANSWER]
    preamble = indices[response_format.DESCRIPTION] + indices[response_format.RATIONALE]
    return (
        bool(steps)
        and [found[index].number for index in steps] == list(range(1, len(steps) + 1))
        and all(index < steps[0] for index in preamble)
        and all(index > steps[-1] for index in answers)
        and all(
            len(indices[heading]) <= 1
            for heading in (response_format.DESCRIPTION, response_format.RATIONALE, response_format.ANSWER)
        )
    )


def answer_start(found: list[Section]) -> int | None:
    """Byte offset of the first answer heading."""
    return next((section.start for section in found if section.heading == response_format.ANSWER), None)


def section_ends(found: list[Section], length: int) -> list[int]:
    """Byte offsets where the sections of step-level credit end: preamble, each step, final answer.

    The text is split before every step heading and before the first answer heading; a text with neither is one section.
    """
    steps = {section.start for section in found if section.heading == response_format.STEP}
    answer = answer_start(found)
    return [*sorted(steps if answer is None else steps | {answer}), length]


def to_number(digits: bytes) -> int:
    """The number of a step; -1, which no order accepts, for ten digits or more."""
    return int(digits) if len(digits) < 10 else -1


def _section(completion: bytes, heading: re.Match[bytes], end: int) -> Section:
    is_step = heading["step"] is not None
    return Section(
        heading=response_format.STEP if is_step else heading["other"].decode(),
        number=to_number(heading[2]) if is_step else 0,
        start=heading.start(),
        body=completion[heading.end() : end].strip(),
    )
