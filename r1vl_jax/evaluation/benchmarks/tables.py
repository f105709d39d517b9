"""Tables in TSV, Parquet and Excel files, a row at a time: cells as they are, "None" and "N/A" among them.

A cell of TSV beyond 16 MiB is cut while it is read, so that no file takes more memory than that for one of its cells.
"""

import contextlib
import csv
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from r1vl_jax.evaluation.benchmarks.excel import import_openpyxl

MAX_CELL = 1 << 24  # characters
SUFFIXES = (".tsv", ".parquet", ".xlsx")
_PIECE = 1 << 16  # characters that are read at a time
_CELL_ENDS = '\t"\r\n'
_BATCH = 64  # rows of Parquet held at a time


class Table:
    """A file's columns, and its rows.

    Args:
        path: a file that ends in one of `SUFFIXES`.

    Raises:
        FileNotFoundError, ValueError: there is no such file, it is of another kind, or not what its name says.
    """

    def __init__(self, path: Path):
        if path.is_dir():
            raise ValueError(f"{path}: expected a file, got a directory; directories are for --benchmark=all")
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        if path.suffix not in SUFFIXES:
            raise ValueError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}")
        self._path = path
        self.columns = next(self._read(lambda _: True), [])

    def rows(self, keep: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
        """The rows, with the columns whose names are to be kept; others are not read where the format allows.

        Raises:
            ValueError: the file is damaged; names the row, counted from 1 without the header.
        """
        rows = self._read(keep)
        names = next(rows, [])
        kept = [name for name in names if keep(name)]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{self._path}: the columns {', '.join(sorted(repeated))} are there twice")
        for cells in rows:
            values = dict(zip(names, cells, strict=True))
            yield {name: values[name] for name in kept}

    def _read(self, keep: Callable[[str], bool]) -> Iterator[list[Any]]:
        """The names of the columns, then the cells of each row."""
        read = {".tsv": _read_tsv, ".parquet": _read_parquet, ".xlsx": _read_xlsx}[self._path.suffix]
        try:
            yield from read(self._path, keep)
        except (pa.ArrowException, csv.Error, UnicodeDecodeError, zipfile.BadZipFile, KeyError) as error:
            raise ValueError(f"{self._path}: is no whole {self._path.suffix[1:]} file: {error}") from error


def to_text(cell: Any) -> str:
    """A cell as text: whole numbers without a point, lists and objects as JSON, "" for null."""
    if cell is None or cell != cell:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, list | dict):
        return json.dumps(cell, ensure_ascii=False, default=str)
    return str(cell)


def _read_tsv(path: Path, keep: Callable[[str], bool]) -> Iterator[list[Any]]:
    limit = csv.field_size_limit(2 * MAX_CELL)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = (row for row in csv.reader(_short_lines(file), "excel-tab", strict=True) if row)
            names = next(rows, [])
            yield names
            for number, cells in enumerate(rows, start=1):
                if len(cells) != len(names):
                    raise ValueError(f"{path}: row {number}: expected {len(names)} cells, got {len(cells)}")
                yield cells
    finally:
        csv.field_size_limit(limit)


def _short_lines(file: IO[str]) -> Iterator[str]:
    """The lines of a file; of a cell beyond the limit only the beginning and the last piece."""
    kept: list[str] = []
    length = 0  # of whole pieces of one cell
    while piece := file.readline(_PIECE):
        is_within_cell = not any(end in piece for end in _CELL_ENDS)
        if is_within_cell and length > MAX_CELL:
            continue
        kept.append(piece)
        length = length + len(piece) if is_within_cell else 0
        if piece.endswith(("\n", "\r")):
            yield "".join(kept)
            kept = []
    if kept:
        yield "".join(kept)


def _read_parquet(path: Path, keep: Callable[[str], bool]) -> Iterator[list[Any]]:
    with pq.ParquetFile(path) as file:
        names = [name for name in file.schema_arrow.names if keep(name)]
        yield names
        for batch in file.iter_batches(batch_size=_BATCH, columns=names, use_threads=False):
            yield from ([row[name] for name in names] for row in batch.to_pylist())


def _read_xlsx(path: Path, keep: Callable[[str], bool]) -> Iterator[list[Any]]:
    """The first sheet; a formula is the text that was written, since an answer "=4" is one to Excel."""
    try:
        openpyxl = import_openpyxl()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    try:
        workbook = openpyxl.load_workbook(path, read_only=True)
    except openpyxl.utils.exceptions.InvalidFileException as error:
        raise ValueError(f"{path}: is no Excel file: {error}") from error
    with contextlib.closing(workbook):
        sheet = workbook.worksheets[0]
        sheet.reset_dimensions()  # some writers state wrong ones
        rows = ([getattr(cell, "text", cell) for cell in row] for row in sheet.iter_rows(values_only=True))
        names = [to_text(name) for name in next(rows, [])]
        yield names
        for cells in rows:
            if any(cell is not None for cell in cells):
                yield (cells + [None] * len(names))[: len(names)]
