"""The pictures in a benchmark's file: base64 in TSV, bytes in Parquet; a short text points to another row's picture."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1vl_jax.data.sources.literals import parse_list
from r1vl_jax.evaluation.benchmarks.tables import MAX_CELL, Table, to_text

_MAX_POINTER = 64  # characters


@dataclass(frozen=True)
class Pictures:
    """Pictures by index of their questions.

    Attributes:
        encoded: the picture files of a question.
        broken: why a question has none.
    """

    encoded: dict[str, list[bytes]]
    broken: dict[str, str]


def read_pictures(path: Path) -> Pictures:
    """The pictures of every question of a file with the columns `index` and `image`.

    Raises:
        FileNotFoundError, ValueError: there is no such file, it is damaged, or lacks the columns.
    """
    table = Table(path)
    if missing := [name for name in ("index", "image") if name not in table.columns]:
        raise ValueError(f"{path}: lacks {', '.join(missing)}; its columns are {', '.join(table.columns)}")
    cell_of = {to_text(row["index"]): row["image"] for row in table.rows(lambda name: name in ("index", "image"))}
    pictures = Pictures({}, {})
    for index, cell in cell_of.items():
        try:
            pictures.encoded[index] = _decode(cell, cell_of)
        except ValueError as error:
            pictures.broken[index] = str(error)
    return pictures


def _decode(cell: Any, cell_of: Mapping[str, Any]) -> list[bytes]:
    """The picture files that a cell holds, or the cell that it points to."""
    if isinstance(cell, str) and len(cell) <= _MAX_POINTER:
        target = cell_of.get(cell.strip())
        if target is None or (isinstance(target, str) and len(target) <= _MAX_POINTER):
            raise ValueError(f"its image {cell!r} is the index of no row with a picture")
        cell = target
    value = parse_list(cell)
    return [_decode_one(each) for each in (value if isinstance(value, list) else [value])]


def _decode_one(value: Any) -> bytes:
    if isinstance(value, dict):  # as the hub's Parquet files have it
        value = value.get("bytes")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or len(value) > MAX_CELL:
        raise ValueError(f"its image is no base64 of at most {MAX_CELL:,} characters")
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except binascii.Error as error:
        raise ValueError(f"its image is broken base64: {error}") from error
