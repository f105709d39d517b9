"""The pictures in a benchmark's file: base64 in TSV, bytes in Parquet; a short text points to another row's picture."""

import base64
import binascii
import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r1vl_jax.data.sources.literals import parse_list
from r1vl_jax.evaluation.benchmarks.tables import MAX_CELL, Table, to_text

_COLUMNS = ("decoded_image", "image")  # where a set of the hub has both, `image` is a path
_MAX_POINTER = 64  # characters


class Pictures(contextlib.AbstractContextManager):
    """The picture files of each row of a benchmark's file, held in a temporary file until it is left.

        with Pictures(path) as pictures:
            pictures.files_of(0)  # of the first row

    Args:
        path: a file of `tables.Table`; it is read once, a few rows at a time.
        num_rows: the first so many rows are asked for; None for all. Of the others, those that they point to are held.

    Raises:
        FileNotFoundError, ValueError: there is no such file, it is damaged, or has no pictures.
    """

    def __init__(self, path: Path, *, num_rows: int | None = None):
        self._spans: dict[int, list[tuple[int, int]]] = {}  # row -> offset and length of each of its files
        self._pointers: dict[int, str] = {}
        self._broken: dict[int, str] = {}
        self._row_of: dict[str, int] = {}  # by index
        self._sought: set[str] = set()  # indices that were pointed to and not yet met
        table = Table(path)
        column = picture_column(path, table.columns)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        for row, cells in enumerate(table.rows(lambda name: name in ("index", column))):
            index, is_asked = to_text(cells.get("index")), num_rows is None or row < num_rows
            if is_asked or index in self._sought:
                self._row_of[index] = row
                self._keep(row, cells[column], seeks=is_asked)
                self._sought.discard(index)
            if num_rows is not None and row + 1 >= num_rows and not self._sought:
                break

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def files_of(self, row: int) -> list[bytes]:
        """The encoded picture files of a row, counted from 0.

        Raises:
            ValueError: it has none; says why.
        """
        if (pointer := self._pointers.get(row)) is not None:
            row = self._row_of.get(pointer.strip(), row)
            if row in self._pointers:
                raise ValueError(f"its image {pointer!r} is the index of no row with a picture")
        if row in self._broken:
            raise ValueError(self._broken[row])
        return [self._read(*span) for span in self._spans[row]]

    def _keep(self, row: int, cell: Any, *, seeks: bool) -> None:
        if isinstance(cell, str) and len(cell) <= _MAX_POINTER:
            self._pointers[row] = cell
            if seeks and cell.strip() not in self._row_of:
                self._sought.add(cell.strip())
            return
        try:
            self._spans[row] = [self._write(content) for content in _decode(cell)]
        except ValueError as error:
            self._broken[row] = str(error)

    def _write(self, content: bytes) -> tuple[int, int]:
        return self._file.tell(), self._file.write(content)

    def _read(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(length)


def picture_column(path: Path, columns: Sequence[str]) -> str:
    """The column with a file's pictures.

    Raises:
        ValueError: there is none.
    """
    for name in _COLUMNS:
        if name in columns:
            return name
    raise ValueError(f"{path}: lacks image, the pictures that are asked about; its columns are {', '.join(columns)}")


def _decode(cell: Any) -> list[bytes]:
    value = parse_list(cell)
    return [_decode_one(each) for each in (value if isinstance(value, list) else [value])]


def _decode_one(value: Any) -> bytes:
    if isinstance(value, dict):  # as the hub's Parquet files have it
        value = value.get("bytes")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or len(value) > MAX_CELL:
        raise ValueError(f"its image is no base64 of at most {MAX_CELL:,} characters")
    text = "".join(value.split())
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"its image is broken base64: {error}") from error
