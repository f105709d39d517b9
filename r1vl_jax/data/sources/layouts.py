"""Layouts of rows: how each is recognised, and which cell of a row is which field of a record.

A layout is a line of `LAYOUTS`: the marks of a row that it needs, and a reader from a row to `Cells`. Marks are the
names of a row's columns, and what some columns hold: `messages[]` is a conversation, `prompt[]` likewise.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from r1vl_jax import response_format
from r1vl_jax.data.sources.conversations import is_conversation, parse_conversation

Row = Mapping[str, Any]

ANSWER_COLUMNS = ("answer", "solution", "ground_truth")  # in the order in which they are the answer
_IMAGE_COLUMNS = ("images", "image", "image_path", "image_paths", "file_name")
_VIDEO_COLUMNS = ("videos", "video", "video_path")
_KIND_COLUMNS = ("kind", "category", "subject", "ability", "question_type", "type")
_SOURCE_COLUMNS = ("data_source", "source", "dataset")
_ID_COLUMNS = ("id", "qid", "pid", "question_id")
_STAGES = ("SUMMARY", "CAPTION", "REASONING", "CONCLUSION")
_REFLECTION = "let me rethink it"


@dataclass(frozen=True)
class Cells:
    """The cells of a row that are fields of a record, as they occur.

    Attributes:
        problem, response, solution, system: texts; "" for none.
        images: a cell of pictures.
        answers: column -> cell of those that could be the answer, the first one first; none where only the response
            has it.
        choices, key_steps, id, kind, source: cells, None where the row has none.
    """

    problem: str
    images: Any = None
    answers: Mapping[str, Any] = field(default_factory=dict)
    response: str = ""
    solution: str = ""
    system: str = ""
    choices: Any = None
    key_steps: Any = None
    id: Any = None
    kind: Any = None
    source: Any = None


@dataclass(frozen=True)
class Layout:
    """A layout.

    Attributes:
        needs: marks that its rows have. A layout that needs all that another does, and more, comes before that one.
        read: from a row to its cells; raises ValueError where the row is not as the layout says.
    """

    needs: frozenset[str]
    read: Callable[[Row], Cells]


def marks(row: Row) -> Iterator[str]:
    """What a row is recognised by: its columns that are not null, and what some of them hold."""
    for name, cell in row.items():
        if cell is not None:
            yield name
        if is_conversation(cell):
            yield f"{name}[]"
            text = _last_text(cell)
            if response_format.ANSWER in text:
                yield f"{name}[###]"
            if all(f"<{stage}>" in text for stage in _STAGES):
                yield f"{name}[<SUMMARY>]"
    if isinstance(row.get("reward_model"), Mapping):
        yield from (f"reward_model.{name}" for name in row["reward_model"])
    if isinstance(row.get("prompt"), str):
        yield "prompt text"


def recognise(rows: Iterable[Row], columns: Mapping[str, str] | None = None) -> str:
    """The name of the layout of a data set's first rows.

    Args:
        columns: field -> column, as `parse_columns` gives them.

    Raises:
        ValueError: none fits, or several, or a column of `columns` is in no row; says which, and the columns.
    """
    columns = columns or {}
    found, names = set[str](), dict[str, None]()
    for row in rows:
        found.update(marks(rename(row, columns)))
        names.update(dict.fromkeys(row))
    if not names:
        raise ValueError("it has no rows")
    if absent := [column for column in columns.values() if column not in names]:
        raise ValueError(f"data.columns: no column {absent[0]!r}, only {', '.join(names)}")
    fits = [name for name, layout in LAYOUTS.items() if layout.needs <= found]
    best = [name for name in fits if not any(LAYOUTS[name].needs < LAYOUTS[other].needs for other in fits)]
    named = ", ".join(sorted(mark for mark in found if mark.isidentifier()))
    if len(best) > 1:
        raise ValueError(f"the columns {named} fit several layouts, {' and '.join(best)}; set data.layout to one")
    if not best:
        raise ValueError(
            f"the columns {named} fit no layout; set data.columns, as 'problem=COLUMN,answer=COLUMN,images=COLUMN',"
            f" or data.layout to one of {', '.join(LAYOUTS)}"
        )
    return best[0]


def parse_columns(text: str) -> dict[str, str]:
    """`data.columns` as field -> column."""
    pairs = (pair.partition("=") for pair in text.split(",") if pair.strip())
    return {name.strip(): column.strip() for name, _, column in pairs}


def rename(row: Row, columns: Mapping[str, str]) -> Row:
    """A row with the columns that `data.columns` names under the names of their fields; null where it has none."""
    taken = {*columns, *columns.values()}
    rest = {name: cell for name, cell in row.items() if name not in taken}
    return rest | {name: row.get(column) for name, column in columns.items()}


def images_of(row: Row) -> Any:
    """The cell of a row's pictures.

    Raises:
        ValueError: several columns hold pictures, or one holds a video.
    """
    if videos := [name for name in _VIDEO_COLUMNS if not _is_empty(row.get(name))]:
        raise ValueError(f"records hold still images, and its column {videos[0]!r} has a video")
    held = [name for name in _IMAGE_COLUMNS if not _is_empty(row.get(name))]
    if len(held) > 1:
        raise ValueError(f"pictures stand in {' and '.join(held)}; set data.columns='images=COLUMN'")
    return row[held[0]] if held else None


def _question(problem: str) -> Callable[[Row], Cells]:
    """A reader of rows with a question, an answer and pictures in columns."""

    def read(row: Row) -> Cells:
        response = _text(row, "response") or _text(row, "completion")
        return _cells(row, problem=_text(row, problem), images=images_of(row), response=response)

    return read


def _conversation(column: str) -> Callable[[Row], Cells]:
    """A reader of rows whose question, and response if there is one, are turns of a conversation."""

    def read(row: Row) -> Cells:
        return _from_turns(row, row.get(column))

    return read


def _mulberry(row: Row) -> Cells:
    cells = _from_turns(row, row.get("messages"))
    if _REFLECTION in cells.response.lower():
        raise ValueError(f"its response is a reflective one ({_REFLECTION!r}), which warm-up leaves out")
    return cells


def _llava_cot(row: Row) -> Cells:
    cells = _from_turns(row, row.get("conversations"))
    bodies = [re.search(rf"<{stage}>(.*?)</{stage}>", cells.response, re.DOTALL) for stage in _STAGES]
    if absent := [stage for stage, body in zip(_STAGES, bodies, strict=True) if body is None]:
        raise ValueError(f"its response has no <{absent[0]}>...</{absent[0]}>")
    summary, caption, reasoning, conclusion = (body[1].strip() for body in bodies if body)
    steps = [step.strip() for step in re.split(r"\n\s*\n", reasoning) if step.strip()]
    return replace(cells, response=response_format.compose(caption, summary, steps, conclusion))


def _trl(row: Row) -> Cells:
    turns, completion = row.get("prompt"), row.get("completion")
    if is_conversation(turns) and is_conversation(completion):
        turns = [*turns, *completion]
    cells = _from_turns(row, turns)
    return replace(cells, response=completion) if isinstance(completion, str) else cells


def _verl(row: Row) -> Cells:
    cells = _from_turns(row, row.get("prompt"))
    extra, reward_model = (
        row[name] if isinstance(row.get(name), Mapping) else {} for name in ("extra_info", "reward_model")
    )
    number = None if extra.get("index") is None else f"{extra.get('split') or 'row'}-{extra['index']}"
    answers = {"reward_model.ground_truth": reward_model.get("ground_truth")}
    return replace(cells, answers=answers, id=number if cells.id is None else cells.id)


def _alpaca(row: Row) -> Cells:
    if row.get("history"):
        raise ValueError("records are of one question, and it has a history of earlier turns")
    problem = "\n".join(text for text in (_text(row, "instruction"), _text(row, "input")) if text)
    return _cells(
        row, problem=problem, images=images_of(row), response=_text(row, "output"), system=_text(row, "system")
    )


def _from_turns(row: Row, turns: Any) -> Cells:
    conversation = parse_conversation(turns)
    images = images_of(row)
    if conversation.images and not _is_empty(images):
        raise ValueError("pictures stand both in its turns and in a column; give them once")
    return _cells(
        row,
        problem=conversation.problem,
        images=list(conversation.images) or images,
        response=conversation.response or _text(row, "response"),
        system=conversation.system or _text(row, "system"),
    )


def _cells(row: Row, *, problem: str, images: Any, response: str, system: str = "") -> Cells:
    return Cells(
        problem=problem,
        images=images,
        response=response,
        system=system,
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


def _last_text(turns: list[Mapping[str, Any]]) -> str:
    cell = turns[-1].get("content", turns[-1].get("value"))
    return cell if isinstance(cell, str) else str(cell)


def _layout(needs: str, read: Callable[[Row], Cells]) -> Layout:
    return Layout(frozenset(needs.split(", ")), read)


LAYOUTS = {
    "mulberry": _layout("messages, messages[], messages[###]", _mulberry),
    "messages": _layout("messages, messages[]", _conversation("messages")),  # also LLaMA-Factory's, with OpenAI's names
    "r1vl": _layout("image_path, problem, solution, key_steps", _question("problem")),
    "trl": _layout("prompt, prompt[]", _trl),
    "verl": _layout("prompt, prompt[], reward_model.ground_truth", _verl),
    "easyr1": _layout("images, problem, answer", _question("problem")),
    "prompt": _layout("prompt, prompt text", _question("prompt")),  # also EasyR1 with `prompt`
    "geometry3k": _layout("images, problem, answer, choices", _question("problem")),
    "llava": _layout("image, conversations, conversations[]", _conversation("conversations")),  # also VLM-R1
    "llava-cot": _layout("image, conversations, conversations[], conversations[<SUMMARY>]", _llava_cot),
    "sharegpt": _layout("conversations, conversations[]", _conversation("conversations")),
    "alpaca": _layout("instruction, output", _alpaca),
    "virl39k": _layout("question, answer, image, qid", _question("question")),
    "mmk12": _layout("question, answer, image, subject", _question("question")),
    "open-r1-8k": _layout("image, problem, solution, original_question", _question("problem")),
    "thinklite": _layout("image, problem, answer", _question("problem")),
    "question": _layout("question, answer", _question("question")),
    "problem": _layout("problem", _question("problem")),  # ours: the fields of a record, by name
}
