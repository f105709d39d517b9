"""StepGRPO's rewards of one completion, defined on its UTF-8 bytes. Two readings, called `semantics`:

                     "paper"                                      "released"
    key steps        in the path before the answer,               in the bodies of the steps, joined by a space,
                     in normal form, at the ends of words         case-folded, anywhere
    answer           first line below the answer heading          that line, or anything in the completion
    no answer        earns nothing                                earns for key steps
    validity         sections not empty and in logical order      four headings occur, steps are 1..n, answer last

Source: Zhang et al., R1-VL, 2025, https://arxiv.org/abs/2503.12937; "released" is the behaviour of the code that the
authors published, on ASCII text and apart from the answer check.
"""

import bisect
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from r1vl_jax import response_format
from r1vl_jax.rewards import answers, path
from r1vl_jax.rewards.normal_form import Searchable, join_pieces, normal_form, normalise, occurrences, whole_occurrences

SEMANTICS = ("paper", "released")
# A group of equivalent spellings, or a single spelling.
Group = str | Sequence[str]
Span = tuple[int, int]

_STEP_BODY = re.compile(path.STEP_HEADING.pattern + rb"\s*(.*?)(?=\n###|\Z)", re.DOTALL)
_REQUIRED = (
    response_format.DESCRIPTION,
    response_format.RATIONALE,
    response_format.step_heading(1),
    response_format.ANSWER,
)


@dataclass(frozen=True)
class Answer:
    """What became of the final answer.

    Attributes:
        can_earn: whether there is an answer, as far as the semantics asks for one.
        is_correct: None where only math-verify can tell.
        question: reference and prediction to ask it about.
    """

    can_earn: bool
    is_correct: bool | None
    question: tuple[bytes, bytes]


@dataclass(frozen=True)
class ParsedCompletion:
    """What the rewards need to know of a completion.

    Attributes:
        section_ends: byte offset where each section that earns credit ends.
        sections_of_matches: for every matched group of key steps, the section that first holds it.
        num_groups: groups of key steps there are.
        is_complete, is_ordered: the two halves of validity.
    """

    section_ends: list[int]
    sections_of_matches: list[int]
    num_groups: int
    answer: Answer
    is_complete: bool
    is_ordered: bool


def parse_completion(completion: bytes, gold: bytes, key_steps: Sequence[Group], *, semantics: str) -> ParsedCompletion:
    """Reads a completion against the reference answer and the key steps of its question."""
    found = path.find_sections(completion)
    section_ends = path.credit_ends(found, len(completion))
    matches = [_first_end(spellings) for spellings in _matches(completion, key_steps, semantics)]
    if semantics == "paper":
        answer = _paper_answer(found, gold)
        is_complete, is_ordered = path.has_all_parts(found) and answer.can_earn, path.is_in_order(found)
    else:
        answer = _released_answer(completion, gold)
        is_complete, is_ordered = _released_validity(completion)
    return ParsedCompletion(
        section_ends=section_ends,
        sections_of_matches=[bisect.bisect_left(section_ends, end) for end in matches if end is not None],
        num_groups=len(key_steps),
        answer=answer,
        is_complete=is_complete,
        is_ordered=is_ordered,
    )


def key_step_spans(completion: str, key_steps: Sequence[Group], *, semantics: str) -> list[list[Span]]:
    """Where each group of key steps is matched, as spans of characters of the completion; [] where it is missed.

    Spans of one group are in order and do not overlap; the longest of several spellings at one place is kept.
    """
    data = to_bytes(completion)
    return [
        _disjoint(_in_characters(data, itertools.chain(*spellings)))
        for spellings in _matches(data, key_steps, semantics)
    ]


def to_bytes(text: str | bytes) -> bytes:
    """UTF-8, also of text that a tokenizer cut in the middle of a character."""
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text


def _matches(completion: bytes, key_steps: Sequence[Group], semantics: str) -> list[list[Iterator[Span]]]:
    """For each group and each of its spellings, the spans of bytes of the completion that match, in order."""
    if semantics == "paper":
        end = path.answer_start(path.find_sections(completion))
        text, find = normalise(completion[:end]), _paper_occurrences
    else:
        text, find = _step_bodies(completion), _released_occurrences
    return [
        [itertools.starmap(text.origin, find(text.data, spelling)) for spelling in spellings_of(group)]
        for group in key_steps
    ]


def _first_end(spellings: list[Iterator[Span]]) -> int | None:
    """Where the first match of a group ends; None if it has none."""
    return min((span[1] for spans in spellings if (span := next(spans, None))), default=None)


def spellings_of(group: Group) -> list[bytes]:
    """The equivalent spellings of one step, as bytes."""
    return [to_bytes(spelling) for spelling in ([group] if isinstance(group, str) else group)]


def _paper_occurrences(text: bytes, spelling: bytes) -> Iterator[Span]:
    return whole_occurrences(text, normal_form(spelling.strip()))


def _released_occurrences(text: bytes, spelling: bytes) -> Iterator[Span]:
    return occurrences(text, spelling.lower()) if spelling else iter([(0, 0)])  # the empty text is found everywhere


def _step_bodies(completion: bytes) -> Searchable:
    """The bodies of all steps, case-folded; a body ends before the next line that begins with ###."""
    pieces: list[tuple[bytes, int]] = []
    for step in _STEP_BODY.finditer(completion):
        if pieces:
            pieces.append((b" ", step.start()))
        pieces.append((step[2].lower(), step.start(2)))
    return join_pieces(pieces)


def _paper_answer(found: list[path.Section], gold: bytes) -> Answer:
    """The first line below the first answer heading; without one nothing can be earned."""
    body = next((section.body for section in found if section.heading == response_format.ANSWER), b"")
    line = answers.first_line(body)
    return Answer(bool(line), answers.is_equal(gold, line) if line else False, (gold, line))


def _released_answer(completion: bytes, gold: bytes) -> Answer:
    """The same line, or without a heading all there is. If it is wrong, math-verify searches the whole completion."""
    has_heading = response_format.ANSWER.encode() in completion
    line = answers.answer_line(completion) if has_heading else completion.strip()
    return Answer(True, answers.is_equal(gold, line) or None, (gold, completion))


def _released_validity(completion: bytes) -> tuple[bool, bool]:
    is_complete = all(heading.encode() in completion for heading in _REQUIRED)
    steps = list(path.STEP_HEADING.finditer(completion))
    numbers = [path.to_number(step[1]) for step in steps]
    answer = completion.find(response_format.ANSWER.encode())
    is_numbered = bool(steps) and numbers == list(range(1, len(steps) + 1))
    return is_complete, is_numbered and answer >= steps[-1].end()


def _in_characters(data: bytes, spans: Iterable[Span]) -> list[Span]:
    """Spans of bytes as spans of characters."""

    def characters(end: int) -> int:
        return len(data[:end].decode("utf-8", "surrogatepass"))

    return [(characters(start), characters(end)) for start, end in spans]


def _disjoint(spans: Iterable[Span]) -> list[Span]:
    kept: list[Span] = []
    for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        if start < end and (not kept or kept[-1][1] <= start):
            kept.append((start, end))
    return kept
