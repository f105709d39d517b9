"""Sampled completions: image, question and completions, with headings and matched key steps marked."""

import base64
import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etils import epath

from r1vl_jax import response_format
from r1vl_jax.data.pictures import open_picture
from r1vl_jax.observe.completions import custom_rewards, question_text, read_completions

Row = Mapping[str, Any]
Span = tuple[int, int]

_MAX_STEPS = 4
_PROMPTS_PER_STEP = 3
_JPEG = b"\xff\xd8\xff"  # how such a file begins
_MAX_SIDE = 1024  # pixels of a picture on the page


@dataclass(frozen=True)
class Piece:
    """Text of a completion between two adjacent edges of headings and key steps.

    Attributes:
        key_steps: numbers of the key steps that it is part of.
        ends: those of them that end with it.
    """

    text: str
    is_heading: bool
    key_steps: tuple[int, ...]
    ending_key_steps: tuple[int, ...]


@dataclass(frozen=True)
class KeyStep:
    """A key step in all its spellings, and whether the completion has it."""

    spellings: tuple[str, ...]
    is_matched: bool


@dataclass(frozen=True)
class Completion:
    """One completion.

    Attributes:
        row: of the Parquet file.
        advantage_width: of the bar, in percent of its frame: 50 from 3 standard deviations on.
        pieces: of the text; of its last turn if there are several.
        earlier: of several turns, what each before the last was given, which is not learned from, and what was written.
        given: what the last one was given; "" for a single one.
    """

    row: Row
    custom_rewards: Mapping[str, float]
    advantage_width: float
    pieces: tuple[Piece, ...]
    key_steps: tuple[KeyStep, ...]
    earlier: tuple[tuple[str, str], ...] = ()
    given: str = ""


@dataclass(frozen=True)
class Prompt:
    """One prompt and its completions, the best first.

    Attributes:
        image_url: a data URL; "" without an image.
    """

    question: str
    answer: str
    kind: str
    image_url: str
    completions: tuple[Completion, ...]


@dataclass(frozen=True)
class Sample:
    """Prompts of one step."""

    step: int
    prompts: tuple[Prompt, ...]


def samples(workdir: epath.Path) -> Iterator[Sample]:
    """The first prompts of a few steps, first and last among them, each with all its completions."""
    for path in _evenly_spaced(sorted((workdir / "completions").glob("completions_*.parquet"))):
        rows = read_completions(path)
        groups = [list(group) for _, group in itertools.groupby(rows, lambda row: (row["prompt"], row["image"]))]
        if groups:
            yield Sample(rows[0]["step"], tuple(map(_make_prompt, groups[:_PROMPTS_PER_STEP])))


def _evenly_spaced(paths: Sequence[epath.Path]) -> list[epath.Path]:
    """At most `_MAX_STEPS` evenly spaced paths, first and last among them."""
    last, count = len(paths) - 1, min(len(paths), _MAX_STEPS)
    return [paths[round(number * last / max(count - 1, 1))] for number in range(count)]


def _make_prompt(group: Sequence[Row]) -> Prompt:
    row = group[0]
    best_first = sorted(group, key=lambda row: -row["reward"])
    return Prompt(
        question_text(row), row["answer"], row["kind"], image_url(row["image"]), tuple(map(make_completion, best_first))
    )


def image_url(image: bytes) -> str:
    """The image as the model saw it, though not as small, as a data URL; "" if it is none."""
    try:
        picture = open_picture(image, name="the image of a completion")
    except ValueError:
        return ""
    picture.thumbnail((_MAX_SIDE, _MAX_SIDE))
    kind, file = "jpeg" if image.startswith(_JPEG) else "png", io.BytesIO()
    picture.save(file, kind)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def make_completion(row: Row) -> Completion:
    """One row of the Parquet file, as the page shows it."""
    key_steps, spans = json.loads(row["key_steps"]), json.loads(row["key_step_spans"])
    turns = json.loads(row.get("turns") or "[]")  # absent from files of earlier versions
    spellings = [(group,) if isinstance(group, str) else tuple(group) for group in key_steps]
    return Completion(
        row=row,
        custom_rewards=custom_rewards(row),
        advantage_width=min(abs(row["advantage"]) / 3, 1) * 50,
        pieces=tuple(split_into_pieces(row["completion"], spans)),
        key_steps=tuple(KeyStep(group, bool(found)) for group, found in zip(spellings, spans, strict=True)),
        earlier=tuple((given, written) for given, written in turns[:-1]),
        given=turns[-1][0] if turns else "",
    )


def split_into_pieces(completion: str, spans: Sequence[Sequence[Span]]) -> Iterator[Piece]:
    """Splits the text at the edges of headings and matched key steps, whose spans may overlap.

    Args:
        spans: of each key step, where it matched, [start, end) in characters.
    """
    headings = list(_heading_spans(completion))
    cuts = {0, len(completion), *itertools.chain(*headings), *itertools.chain(*itertools.chain(*spans))}
    edges = sorted(cut for cut in cuts if 0 <= cut <= len(completion))
    for start, end in itertools.pairwise(edges):
        covering = tuple(n for n, group in enumerate(spans, start=1) if any(a <= start and end <= b for a, b in group))
        yield Piece(
            text=completion[start:end],
            is_heading=any(a <= start and end <= b for a, b in headings),
            key_steps=covering,
            ending_key_steps=tuple(n for n in covering if any(b == end for _, b in spans[n - 1])),
        )


def _heading_spans(completion: str) -> Iterator[Span]:
    """Lines that open a section of the response format."""
    start = 0
    for line in completion.split("\n"):
        if line.startswith(
            (
                response_format.DESCRIPTION,
                response_format.RATIONALE,
                response_format.THINK,
                response_format.STEP,
                response_format.ANSWER,
            )
        ):
            yield start, start + len(line)
        start += len(line) + 1
