"""The readable definition of StepGRPO's rewards, on the UTF-8 bytes of one completion.

There are two variants of the definition, called `semantics`:

                     "paper"                                      "released"
    key steps        matched in the text before the answer,       matched in the bodies of the steps, joined by
                     in normal form, at word boundaries           a space: case-folded, anywhere
    answer           first block below the answer heading         that block, or the last box, or the whole text
    no answer        StepRAR is 0                                 key steps still count
    validity         sections not empty and in logical order      four headings occur, steps are 1..n, answer last

Source: Zhang et al., R1-VL, 2025, https://arxiv.org/abs/2503.12937. "released" is the behaviour of the code that the
authors published, on ASCII text and apart from the answer check.
"""

import bisect
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from r1vl_jax import response_format
from r1vl_jax.rewards import sections
from r1vl_jax.rewards.answers import Comparison, compare_any, reading
from r1vl_jax.rewards.normal_form import (
    MappedText,
    join_pieces,
    normal_form,
    normalise,
    occurrences,
    occurrences_at_boundaries,
)

SEMANTICS = ("paper", "released")
# A list of equivalent spellings of one key step, or a single spelling.
KeyStepGroup = str | Sequence[str | bytes]
Span = tuple[int, int]

_STEP_BODY = re.compile(sections.STEP_HEADING.pattern + rb"\s*(.*?)(?=\n###|\Z)", re.DOTALL)
_REQUIRED = (
    response_format.DESCRIPTION,
    response_format.RATIONALE,
    response_format.step_heading(1),
    response_format.ANSWER,
)


@dataclass(frozen=True)
class ParsedAnswer:
    """The final answer of a completion, compared with the gold answers.

    Attributes:
        is_eligible: whether StepRAR may be more than 0: "paper" asks for a non-empty answer, "released" does not.
        text: the answer as the completion has it.
        comparison: with the gold answers.
    """

    is_eligible: bool
    text: str
    comparison: Comparison


@dataclass(frozen=True)
class ParsedCompletion:
    """What the rewards are computed from.

    Attributes:
        section_ends: byte offset where each section of step-level credit ends.
        match_sections: for each matched group of key steps, the index of the section that holds its first match.
        num_groups: number of key-step groups of the question.
        is_complete, is_ordered: the two conditions of StepRVR.
    """

    section_ends: list[int]
    match_sections: list[int]
    num_groups: int
    answer: ParsedAnswer
    is_complete: bool
    is_ordered: bool


def parse_completion(
    completion: bytes, golds: Sequence[bytes], key_steps: Sequence[KeyStepGroup], *, semantics: str
) -> ParsedCompletion:
    """Parses a completion and compares it with the gold answers, each of which is right, and the key steps."""
    found = sections.find_sections(completion)
    section_ends = sections.section_ends(found, len(completion))
    match_ends = [_first_match_end(spellings) for spellings in _matches(completion, key_steps, semantics)]
    answer = parse_answer(completion, golds, semantics=semantics)
    if semantics == "paper":
        is_complete = sections.has_all_parts(found) and answer.is_eligible
        is_ordered = sections.is_in_order(found)
    else:
        is_complete, is_ordered = _released_validity(completion)
    return ParsedCompletion(
        section_ends=section_ends,
        match_sections=[bisect.bisect_left(section_ends, end) for end in match_ends if end is not None],
        num_groups=len(key_steps),
        answer=answer,
        is_complete=is_complete,
        is_ordered=is_ordered,
    )


def key_step_spans(completion: str, key_steps: Sequence[KeyStepGroup], *, semantics: str) -> list[list[Span]]:
    """The matches of each key-step group, as spans of characters of the completion; [] if a group is not matched.

    Spans of one group are sorted and do not overlap; of several spellings that match at one position the longest is
    kept.
    """
    data = to_bytes(completion)
    return [
        _without_overlaps(_to_character_spans(data, itertools.chain(*spellings)))
        for spellings in _matches(data, key_steps, semantics)
    ]


def to_bytes(text: str | bytes) -> bytes:
    """UTF-8, also of text with lone surrogates, as a tokenizer leaves them where it cuts a character."""
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text


def _matches(completion: bytes, key_steps: Sequence[KeyStepGroup], semantics: str) -> list[list[Iterator[Span]]]:
    """For each group and each of its spellings, the spans of bytes of the completion that match, in order."""
    if semantics == "paper":
        text, find = normalise(completion, *_reasoning_path(completion)), _paper_occurrences
    else:
        text, find = _step_bodies(completion), _released_occurrences
    return [
        [itertools.starmap(text.source_span, find(text.data, spelling)) for spelling in group_spellings(group)]
        for group in key_steps
    ]


def _reasoning_path(completion: bytes) -> Span:
    """The span of the text before the answer; of a text with an `<answer>` element, its `<think>` element."""
    start = sections.answer_start(sections.find_sections(completion))
    if start is None and reading.answer_element(completion) is not None:
        return reading.think_element(completion)
    return 0, len(completion) if start is None else start


def _first_match_end(spellings: list[Iterator[Span]]) -> int | None:
    """Where the match of a group that ends first ends; None without a match."""
    return min((span[1] for spans in spellings if (span := next(spans, None))), default=None)


def group_spellings(group: KeyStepGroup) -> list[bytes]:
    """The equivalent spellings of one key step, as bytes."""
    return [to_bytes(spelling) for spelling in ([group] if isinstance(group, str) else group)]


def _paper_occurrences(text: bytes, spelling: bytes) -> Iterator[Span]:
    return occurrences_at_boundaries(text, normal_form(spelling.strip()))


def _released_occurrences(text: bytes, spelling: bytes) -> Iterator[Span]:
    # An empty spelling matches every text.
    return occurrences(text, spelling.lower()) if spelling else iter([(0, 0)])


def _step_bodies(completion: bytes) -> MappedText:
    """The bodies of all steps, case-folded; a body ends before the next line that begins with ###."""
    pieces: list[tuple[bytes, int]] = []
    for step in _STEP_BODY.finditer(completion):
        if pieces:
            pieces.append((b" ", step.start()))
        pieces.append((step[2].lower(), step.start(2)))
    return join_pieces(pieces)


def parse_answer(completion: bytes, golds: Sequence[bytes], *, semantics: str) -> ParsedAnswer:
    """The answer of a completion, compared with gold answers; "paper" asks for a heading or an element above it."""
    if semantics == "released":
        answer, is_eligible = reading.anywhere(completion), True
    else:
        answer = _paper_answer(completion)
        is_eligible = bool(answer)
    text = to_text(answer)
    return ParsedAnswer(is_eligible, text, compare_any([to_text(gold) for gold in golds], text))


def to_text(data: bytes) -> str:
    """UTF-8 as a string; different bytes, invalid ones too, stay different."""
    return data.decode("utf-8", "surrogateescape")


def _paper_answer(completion: bytes) -> bytes:
    """The first block of the first answer section, or of the `<answer>` element; empty without one."""
    found = sections.find_sections(completion)
    body = next((section.body for section in found if section.heading == response_format.ANSWER), None)
    return reading.answer_element(completion) or b"" if body is None else reading.first_block(body) or body


def _released_validity(completion: bytes) -> tuple[bool, bool]:
    is_complete = all(heading.encode() in completion for heading in _REQUIRED)
    steps = list(sections.STEP_HEADING.finditer(completion))
    numbers = [sections.to_number(step[1]) for step in steps]
    answer = completion.find(response_format.ANSWER.encode())
    is_numbered = bool(steps) and numbers == list(range(1, len(steps) + 1))
    return is_complete, is_numbered and answer >= steps[-1].end()


def _to_character_spans(data: bytes, spans: Iterable[Span]) -> list[Span]:
    """Spans of bytes as spans of characters."""

    def num_characters(end: int) -> int:
        return len(data[:end].decode("utf-8", "surrogatepass"))

    return [(num_characters(start), num_characters(end)) for start, end in spans]


def _without_overlaps(spans: Iterable[Span]) -> list[Span]:
    kept: list[Span] = []
    for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        if start < end and (not kept or kept[-1][1] <= start):
            kept.append((start, end))
    return kept
