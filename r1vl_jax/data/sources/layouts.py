"""Layouts of rows: how each is recognised, and which cell of a row is which field of a record.

A layout is a line of `LAYOUTS`: the marks of a row that it needs, and a reader from a row to `Cells`. Marks are the
names of a row's columns, and what some columns hold: `messages[]` is a conversation, `prompt[]` likewise.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from r1vl_jax import response_format
from r1vl_jax.data.sources import readers
from r1vl_jax.data.sources.conversations import is_conversation
from r1vl_jax.data.sources.files import Row
from r1vl_jax.data.sources.readers import Cells


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
            if all(f"<{stage}>" in text for stage in readers.STAGES):
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


def _last_text(turns: list[Mapping[str, Any]]) -> str:
    cell = turns[-1].get("content", turns[-1].get("value"))
    parts = cell if isinstance(cell, list | tuple) else [cell]
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    return "".join(text for text in texts if isinstance(text, str))


def _layout(needs: str, read: Callable[[Row], Cells]) -> Layout:
    return Layout(frozenset(needs.split(", ")), read)


LAYOUTS = {
    "mulberry": _layout("messages, messages[], messages[###]", readers.mulberry),
    "messages": _layout(
        "messages, messages[]", readers.conversation("messages")
    ),  # also LLaMA-Factory's, with OpenAI's names
    "r1vl": _layout("image_path, problem, solution, key_steps", readers.question("problem")),
    "trl": _layout("prompt, prompt[]", readers.trl),
    "verl": _layout("prompt, prompt[], reward_model.ground_truth", readers.verl),
    "easyr1": _layout("images, problem, answer", readers.question("problem")),
    "prompt": _layout("prompt, prompt text", readers.question("prompt")),  # also EasyR1 with `prompt`
    "geometry3k": _layout("images, problem, answer, choices", readers.question("problem")),
    "llava": _layout("image, conversations, conversations[]", readers.conversation("conversations")),  # also VLM-R1
    "llava-cot": _layout("image, conversations, conversations[], conversations[<SUMMARY>]", readers.llava_cot),
    "sharegpt": _layout("conversations, conversations[]", readers.conversation("conversations")),
    "alpaca": _layout("instruction, output", readers.alpaca),
    "virl39k": _layout("question, answer, image, qid", readers.question("question")),
    "mmk12": _layout("question, answer, image, subject", readers.question("question")),
    "open-r1-8k": _layout("image, problem, solution, original_question", readers.question("problem")),
    "thinklite": _layout("image, problem, answer", readers.question("problem")),
    "question": _layout("question, answer", readers.question("question")),
    "problem": _layout("problem", readers.question("problem")),  # ours: the fields of a record, by name
}
