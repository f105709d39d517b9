"""From a row of a data set to a record: its cells understood, its pictures read, its oddities noted."""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1vl_jax.data import fields
from r1vl_jax.data.key_steps import key_steps_by_rule
from r1vl_jax.data.placeholders import VIDEO_PLACEHOLDER, match_placeholders
from r1vl_jax.data.record import Record, UnusableRecord, pair_turns
from r1vl_jax.data.sources.answers import (
    answer_in_column,
    answer_in_response,
    answers_in_column,
    list_choices,
    parse_choices,
)
from r1vl_jax.data.sources.files import Row
from r1vl_jax.data.sources.layouts import LAYOUTS, rename
from r1vl_jax.data.sources.pictures import list_pictures, read_picture
from r1vl_jax.data.sources.readers import Cells
from r1vl_jax.data.sources.videos import MAX_FRAMES, list_videos, read_video
from r1vl_jax.rewards.answers import compare_any
from r1vl_jax.rewards.key_steps import parse_key_steps, read_groups


@dataclass(frozen=True)
class RowReader:
    """Reads rows of one layout.

    Attributes:
        layout: a name in `LAYOUTS`.
        columns: field -> column, as `data.columns` renames them.
        root: of relative paths of pictures.
        source: name of the data set, part of the ids that rows lack.
        key_steps: "rule" takes those of rows without any from their solution or response; "none" leaves them out.
        max_frames: of a video.
    """

    layout: str
    columns: Mapping[str, str]
    root: Path
    source: str
    key_steps: str = "rule"
    max_frames: int = MAX_FRAMES

    def read(self, row: Row, *, split: str, number: int) -> tuple[Record, list[str]]:
        """The record of a row, not yet validated, and what was changed, is absent or special in it.

        Args:
            number: of the row in its split, from 0.

        Raises:
            UnusableRecord: a cell cannot be understood or a picture not be read; says which row.
        """
        place = f"{self.source}/{split}/{number}"
        try:
            cells = LAYOUTS[self.layout].read(rename(row, self.columns))
            record_id = place if cells.id is None else str(cells.id)
            fields.check_text("id", record_id)
        except (ValueError, RecursionError) as error:
            raise UnusableRecord(place, str(error)) from error
        try:
            return self._record(cells, record_id)
        except (ValueError, OSError, RecursionError) as error:
            raise UnusableRecord(record_id, str(error)) from error

    def _record(self, cells: Cells, record_id: str) -> tuple[Record, list[str]]:
        choices = parse_choices(cells.choices)
        answers, notes = _answers(cells, choices)
        answer = answers[0] if answers else ""
        texts = [*itertools.chain(*cells.history), cells.problem]
        texts, pictures, change = match_placeholders(texts, list_pictures(cells.images))
        texts, videos, video_change = match_placeholders(texts, self._list_videos(cells), VIDEO_PLACEHOLDER)
        notes += [each for each in (change, video_change) if each]
        clips = [read_video(video, self.root, max_frames=self.max_frames, fps=fps) for video, fps in videos]
        problem = list_choices(texts[-1], choices)
        key_steps, change = _own_key_steps(cells.key_steps)
        notes += [change] if change else []
        if not key_steps and self.key_steps == "rule":
            key_steps = _key_steps("\n".join((cells.system, *texts[:-1], problem)), cells, answers)
            notes += ["key steps by rule"] if key_steps else []
        record = Record(
            id=record_id,
            images=tuple(read_picture(picture, self.root) for picture in pictures),
            problem=problem,
            solution=cells.solution or answer,
            answer=answer,
            key_steps=key_steps,
            response=cells.response,
            kind=_name(cells.kind),
            source=_name(cells.source) or self.source,
            system=cells.system,
            history=pair_turns(texts[:-1]),
            videos=tuple(frames for frames, _ in clips),
            fps=tuple(rate for _, rate in clips),
            other_answers=tuple(answers[1:]),
        )
        return record, [*notes, *_notes(record)]

    def _list_videos(self, cells: Cells) -> list[tuple[Any, Any]]:
        """The videos, each with the frames a second that the row states, or None."""
        videos = list_videos(cells.videos)
        rates = list(cells.fps) if isinstance(cells.fps, list | tuple) else [cells.fps] * len(videos)
        if len(rates) != len(videos):
            raise ValueError(
                f"column 'fps': expected a number, or one for each of {len(videos)} videos, got {rates!r:.60}"
            )
        return list(zip(videos, rates, strict=True))


def _answers(cells: Cells, choices: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The answers that are right, and notes on where they are from."""
    notes: list[str] = []
    for name, cell in cells.answers.items():
        if name == "solution" and isinstance(cell, str):  # a worked solution, or the answer alone
            cell = answer_in_response(cell)
        answers = answers_in_column(cell, problem=cells.problem, choices=choices)
        if not answers:
            continue
        if len(answers) > 1:
            notes.append("several accepted answers")
        if others := [other for other in cells.answers if other != name]:
            notes.append(f"answer from the column {name}, not {' or '.join(others)}")
        return answers, notes
    answer = answer_in_column(answer_in_response(cells.response), choices=choices)
    return [answer] if answer else [], notes


def _own_key_steps(cell: Any) -> tuple[tuple[tuple[str, ...], ...], str]:
    """Those that the row has, and what was changed in them."""
    if not cell or (isinstance(cell, Mapping) and cell.get("Steps", ()) is None):
        return (), ""
    try:
        groups = parse_key_steps(cell)
    except ValueError as error:
        raise ValueError(f"field 'key_steps': {error}") from None
    return groups, "" if groups == read_groups(cell) else "empty key steps left out"


def _key_steps(question: str, cells: Cells, answers: list[str]) -> tuple[tuple[str, ...], ...]:
    """Of the solution, or else the response; none of a text whose own answer is wrong."""
    for text in (cells.solution, cells.response):
        own_answer = answer_in_response(text)
        is_marked = own_answer not in ("", text.strip())
        is_wrong = bool(answers) and is_marked and compare_any(answers, own_answer).is_correct is False
        if not is_wrong and (groups := key_steps_by_rule(question, text)):
            return groups
    return ()


def _notes(record: Record) -> Iterator[str]:
    if not record.key_steps:
        yield "no key steps"
    if not record.answer:
        yield "no answer, so for supervised stages only"
    if record.history:
        yield "earlier turns before the question"
    if record.system:
        yield "a system prompt"
    if not record.images and not record.videos:
        yield "no image"
    elif not re.sub("<image>|<video>", "", record.problem).strip():
        yield "no text in the question, only pictures"


def _name(cell: Any) -> str:
    """A kind or source as a metric's name; "" where it is no name."""
    return " ".join(str(cell).split()) if isinstance(cell, str | int) and not isinstance(cell, bool) else ""
