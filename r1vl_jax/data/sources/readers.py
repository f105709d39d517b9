"""Readers of rows: which cell of a row is which field of a record, one function for each form."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from r1vl_jax import response_format
from r1vl_jax.data import fields
from r1vl_jax.data.sources.conversations import is_conversation, parse_conversation
from r1vl_jax.data.sources.files import Row

ANSWER_COLUMNS = ("answer", "solution", "ground_truth")  # in the order in which they are the answer
_IMAGE_COLUMNS = ("images", "image", "image_path", "image_paths", "file_name")
_VIDEO_COLUMNS = ("videos", "video", "video_path")
_KIND_COLUMNS = ("kind", "category", "subject", "ability", "question_type", "type")
_SOURCE_COLUMNS = ("data_source", "source", "dataset")
_ID_COLUMNS = ("id", "qid", "pid", "question_id")
STAGES = ("SUMMARY", "CAPTION", "REASONING", "CONCLUSION")
_REFLECTION = "let me rethink it"


@dataclass(frozen=True)
class Cells:
    """The cells of a row that are fields of a record, as they occur.

    Attributes:
        problem, response, solution, system: texts; "" for none.
        history: pairs of texts, as `Record.history`.
        images, videos: cells of pictures, and of videos.
        fps: a cell of numbers, of frames a second of videos that are given as frames.
        answers: column -> cell of those that could be the answer, the first one first; none where only the response
            has it.
        choices, key_steps, id, kind, source: cells, None where the row has none.
    """

    problem: str
    images: Any = None
    videos: Any = None
    fps: Any = None
    answers: Mapping[str, Any] = field(default_factory=dict)
    response: str = ""
    solution: str = ""
    system: str = ""
    history: Any = ()
    choices: Any = None
    key_steps: Any = None
    id: Any = None
    kind: Any = None
    source: Any = None


def pictures_of(row: Row, names: Sequence[str]) -> Any:
    """The cell of a row's pictures or videos, in the one of these columns that has some.

    Raises:
        ValueError: several do.
    """
    held = [name for name in names if not _is_empty(row.get(name))]
    if len(held) > 1:
        raise ValueError(f"pictures stand in {' and '.join(held)}; set data.columns='{names[0]}=COLUMN'")
    return row[held[0]] if held else None


def question(problem: str) -> Callable[[Row], Cells]:
    """A reader of rows with a question, an answer and pictures in columns."""

    def read(row: Row) -> Cells:
        response = _text(row, "response") or _text(row, "completion")
        return _with_context(_cells(row, problem=_text(row, problem), response=response), row)

    return read


def conversation(column: str) -> Callable[[Row], Cells]:
    """A reader of rows whose question, and response if there is one, are turns of a conversation."""

    def read(row: Row) -> Cells:
        return _from_turns(row, row.get(column))

    return read


def mulberry(row: Row) -> Cells:
    cells = _from_turns(row, row.get("messages"))
    if _REFLECTION in cells.response.lower():
        raise ValueError(f"its response is a reflective one ({_REFLECTION!r}), which warm-up leaves out")
    return cells


def llava_cot(row: Row) -> Cells:
    cells = _from_turns(row, row.get("conversations"))
    bodies = [re.search(rf"<{stage}>(.*?)</{stage}>", cells.response, re.DOTALL) for stage in STAGES]
    if absent := [stage for stage, body in zip(STAGES, bodies, strict=True) if body is None]:
        raise ValueError(f"its response has no <{absent[0]}>...</{absent[0]}>")
    summary, caption, reasoning, conclusion = (body[1].strip() for body in bodies if body)
    steps = [step.strip() for step in re.split(r"\n\s*\n", reasoning) if step.strip()]
    return replace(cells, response=response_format.compose(caption, summary, steps, conclusion))


def trl(row: Row) -> Cells:
    turns, completion = row.get("prompt"), row.get("completion")
    if is_conversation(turns) and is_conversation(completion):
        turns = [*turns, *completion]
    cells = _from_turns(row, turns)
    return replace(cells, response=completion) if isinstance(completion, str) else cells


def verl(row: Row) -> Cells:
    cells = _from_turns(row, row.get("prompt"))
    extra, reward_model = (
        row[name] if isinstance(row.get(name), Mapping) else {} for name in ("extra_info", "reward_model")
    )
    number = None if extra.get("index") is None else f"{extra.get('split') or 'row'}-{extra['index']}"
    answers = {"reward_model.ground_truth": reward_model.get("ground_truth")}
    return replace(cells, answers=answers, id=number if cells.id is None else cells.id)


def alpaca(row: Row) -> Cells:
    problem = "\n".join(text for text in (_text(row, "instruction"), _text(row, "input")) if text)
    return _with_context(_cells(row, problem=problem, response=_text(row, "output")), row)


def _from_turns(row: Row, turns: Any) -> Cells:
    parsed = parse_conversation(turns)
    cells = _cells(row, problem=parsed.problem, response=parsed.response or _text(row, "response"))
    if (parsed.images and not _is_empty(cells.images)) or (parsed.videos and not _is_empty(cells.videos)):
        raise ValueError("pictures stand both in its turns and in a column; give them once")
    return replace(
        cells,
        images=list(parsed.images) or cells.images,
        videos=list(parsed.videos) or cells.videos,
        system=parsed.system or _text(row, "system"),
        history=parsed.history,
    )


def _with_context(cells: Cells, row: Row) -> Cells:
    """The cells with the columns of what stands before the question."""
    history = () if _is_empty(row.get("history")) else fields.as_tuples(row["history"])
    fields.check_history(history)
    return replace(cells, system=_text(row, "system"), history=history)


def _cells(row: Row, *, problem: str, response: str) -> Cells:
    return Cells(
        problem=problem,
        images=pictures_of(row, _IMAGE_COLUMNS),
        videos=pictures_of(row, _VIDEO_COLUMNS),
        fps=row.get("fps"),
        response=response,
        answers={name: row[name] for name in ANSWER_COLUMNS if not _is_empty(row.get(name))},
        solution=row["solution"] if isinstance(row.get("solution"), str) else "",
        choices=_first(row, ("choices", "options")),
        key_steps=row.get("key_steps"),
        id=_first(row, _ID_COLUMNS),
        kind=_first(row, _KIND_COLUMNS),
        source=_first(row, _SOURCE_COLUMNS),
    )


def _first(row: Row, names: Iterable[str]) -> Any:
    return next((row[name] for name in names if not _is_empty(row.get(name))), None)


def _is_empty(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str | bytes | list | tuple | Mapping) and not cell) or cell != cell


def _text(row: Row, name: str) -> str:
    cell = row.get(name)
    if cell is not None and not isinstance(cell, str):
        raise ValueError(f"column {name!r}: expected text, got {cell!r:.60} ({type(cell).__name__})")
    return cell or ""
