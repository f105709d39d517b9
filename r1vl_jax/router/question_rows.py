"""Rows of a benchmark's file, also of JSON that holds no list of rows.

{GUID: {"Q": ..., "A": ...}}                            WebQA
{TABLE: [[STATEMENT, ...], [LABEL, ...], ...]}          TabFact
{"question": {"0": ..., "1": ...}, "answer": {...}}     Open-WikiTable, as pandas writes columns
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from r1vl_jax.data.sources.files import Row, read_rows

_LINKED_CELL = re.compile(r"#([^#;]*);-?\d+,-?\d+#")  # TabFact's words that name a cell, with its row and column


def read_question_rows(path: Path) -> Iterator[Row]:
    """The rows of a file of JSON, JSON Lines or Parquet.

    Raises:
        ValueError: the file cannot be read; names it.
    """
    held = _one_object(path)
    if held is None:
        yield from read_rows(path)
    elif isinstance(held.get("question"), Mapping):
        yield from _columns(held)
    elif all(isinstance(value, Mapping) for value in held.values()):
        yield from ({"Guid": guid, **value} for guid, value in held.items())
    elif all(isinstance(value, list) for value in held.values()) and not _has_rows(held):
        yield from _statements(held)
    else:
        yield from read_rows(path)


def _one_object(path: Path) -> dict[str, Any] | None:
    """The object of a file that is one object; None for others."""
    if path.suffix != ".json":
        return None
    with path.open(encoding="utf-8-sig") as file:
        if file.read(1) != "{":
            return None
        file.seek(0)
        try:
            return json.load(file)
        except (ValueError, RecursionError):  # an object a line, or what `read_rows` names the fault of
            return None


def _has_rows(held: Mapping[str, list[Any]]) -> bool:
    return any(rows and isinstance(rows[0], Mapping) for rows in held.values())


def _columns(held: Mapping[str, Any]) -> Iterator[Row]:
    columns = {name: cells for name, cells in held.items() if isinstance(cells, Mapping)}
    for key in columns["question"]:
        yield {name: cells.get(key) for name, cells in columns.items()}


def _statements(held: Mapping[str, list[Any]]) -> Iterator[Row]:
    for table, value in held.items():
        statements, labels = value[:2] if len(value) > 1 else (None, None)
        if not isinstance(statements, list) or not isinstance(labels, list) or len(statements) != len(labels):
            yield {"id": table, "statement": None, "label": None}
            continue
        for number, (statement, label) in enumerate(zip(statements, labels, strict=True)):
            text = _LINKED_CELL.sub(r"\1", statement) if isinstance(statement, str) else statement
            yield {"id": f"{table}-{number}", "statement": text, "label": label}
