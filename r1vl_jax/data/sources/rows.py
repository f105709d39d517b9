"""From a row of a data set to a record: its cells understood, its pictures read, its oddities noted."""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1vl_jax.data import fields
from r1vl_jax.data.key_steps.rule import explain_texts
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
from r1vl_jax.data.turns import FPS
from r1vl_jax.rewards.key_steps import parse_key_steps, read_groups

NO_KEY_STEPS = "no key steps"  # a note
UNREAD = b"unread"  # in place of an encoded picture
_MAX_WORDS_OF_MARKS = 3  # beside an answer, as in "Answer: \\boxed{5}"


@dataclass(frozen=True)
class RowReader:
    """Reads rows of one layout.

    Attributes:
        layout: a name in `LAYOUTS`.
        columns: field -> column, as `data.columns` renames them.
        root: of relative paths of pictures.
        source: name of the data set, part of the ids that rows lack.
        finds_key_steps: whether those of rows without any are taken from their solution or response, by rule.
        max_frames: of a video.
        reads_pictures: False has records with `UNREAD` in place of each picture and video, whose cells are not read.
    """

    layout: str
    columns: Mapping[str, str]
    root: Path
    source: str
    finds_key_steps: bool = True
    max_frames: int = MAX_FRAMES
    reads_pictures: bool = True

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
        clips = [self._read_video(video, fps) for video, fps in videos]
        problem = list_choices(texts[-1], choices)
        solution = _worked_solution(cells)
        key_steps, change = _own_key_steps(cells.key_steps)
        notes += [change] if change else []
        if not key_steps and self.finds_key_steps:
            question = "\n".join((cells.system, *texts[:-1], problem))
            key_steps = explain_texts(question, (solution, cells.response), answers).groups
            notes += ["key steps by rule"] if key_steps else []
        record = Record(
            id=record_id,
            images=tuple(map(self._read_picture, pictures)),
            problem=problem,
            solution=solution or answer,
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

    def _read_picture(self, picture: Any) -> bytes:
        return read_picture(picture, self.root) if self.reads_pictures else UNREAD

    def _read_video(self, video: Any, fps: Any) -> tuple[tuple[bytes, ...], float]:
        if not self.reads_pictures:
            return (UNREAD,), FPS
        return read_video(video, self.root, max_frames=self.max_frames, fps=fps)

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


def _worked_solution(cells: Cells) -> str:
    """Of its own column, or of the one that has the answer at its end, as in GSM8K."""
    texts = [cell for cell in cells.answers.values() if isinstance(cell, str)]
    own_answers = [answer_in_response(text) for text in texts]
    worked = (
        text
        for text, own_answer in zip(texts, own_answers, strict=True)
        if own_answer and len(text.split()) > len(own_answer.split()) + _MAX_WORDS_OF_MARKS
    )
    return cells.solution or next(worked, "")


def _own_key_steps(cell: Any) -> tuple[tuple[tuple[str, ...], ...], str]:
    """Those that the row has, and what was changed in them."""
    if not cell or (isinstance(cell, Mapping) and cell.get("Steps", ()) is None):
        return (), ""
    try:
        groups = parse_key_steps(cell)
    except ValueError as error:
        raise ValueError(f"field 'key_steps': {error}") from None
    return groups, "" if groups == read_groups(cell) else "empty key steps left out"


def _notes(record: Record) -> Iterator[str]:
    if not record.key_steps:
        yield NO_KEY_STEPS
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
