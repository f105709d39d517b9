"""Rows of files as documents: which column is the text, the title, the picture, and how a table's row is written."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1vl_jax.data.pictures import open_picture
from r1vl_jax.data.sources.files import Row
from r1vl_jax.data.sources.pictures import list_pictures, read_picture
from r1vl_jax.router.knowledge.document import Document

_TEXT = ("text", "passage", "contents", "content", "body", "txt", "article", "paragraph")
_CAPTION = ("caption", "text", "txt", "description", "title")
_TITLE = ("title", "page_title")
_IMAGE = ("image", "image_path", "img_path", "file_name", "images", "img")
_ID = ("id", "_id", "doc_id", "docid", "did", "pid", "table_id", "image_id", "original_table_id")
_HEADER, _ROWS = "header", "rows"  # of a whole table in one row, as Open-WikiTable and WikiSQL have them


@dataclass(frozen=True)
class Columns:
    """Names of the columns that a user gives; "" where they are recognised.

    Attributes:
        text: the text, or the caption of a picture.
        title: put before each passage, and before each row of a table.
        image: pictures, as paths or bytes.
        id: names the document.
        images: root of relative paths of pictures.
    """

    text: str = ""
    title: str = ""
    image: str = ""
    id: str = ""
    images: Path = Path()

    def check(self, row: Row, kind: str, path: Path) -> None:
        """Refuses a file whose first row does not have the columns.

        Raises:
            ValueError: a column is not there, or none can be the text or the picture; says which there are.
        """
        for flag in ("text", "title", "image", "id"):
            if (name := getattr(self, flag)) and name not in row:
                raise ValueError(f"{path}: no column {name} (--{flag}_column); it has {', '.join(row)}")
        needed = {"text": {"text": _TEXT}, "image": {"text": _CAPTION, "image": _IMAGE}, "table": {}}[kind]
        for flag, known in needed.items():
            if not getattr(self, flag) and not any(name in row for name in known):
                raise ValueError(
                    f"{path}: no column {', '.join(known)}; it has {', '.join(row)}; name yours with --{flag}_column"
                )


def documents_of(row: Row, kind: str, columns: Columns, name: str) -> Iterator[Document]:
    """The documents of a row: one, or those of a whole table.

    Args:
        name: of the row, where it has no id.

    Raises:
        ValueError: the row has no usable text or picture; says why.
    """
    own = str(_cell(row, columns.id, _ID) or name)
    title = _text(row, columns.title, _TITLE)
    if kind == "text":
        yield Document(own, _text(row, columns.text, _TEXT), title=title)
    elif kind == "image":
        yield Document(own, _text(row, columns.text, _CAPTION), _picture(row, columns))
    elif isinstance(row.get(_HEADER), list) and isinstance(row.get(_ROWS), list):
        yield from _rows_of_table(row, own, title)
    else:
        yield Document(own, write_row(_cells_of(row, columns)), title=_text(row, columns.title, ()))


def write_row(cells: Iterable[tuple[str, Any]]) -> str:
    """A row of a table as one text, "column: value; ..."; empty cells are left out.

    A list of plain values is written with commas, anything nested deeper as JSON.
    """
    written = ((column, _written(value)) for column, value in cells)
    return "; ".join(f"{column}: {value}" if column else value for column, value in written if value)


def _rows_of_table(row: Row, own: str, title: str) -> Iterator[Document]:
    header, rows = row[_HEADER], row[_ROWS]
    for number, cells in enumerate(rows, start=1):
        if not isinstance(cells, list) or len(cells) != len(header):
            raise ValueError(
                f"row {number} of the table: expected {len(header)} cells, as its header has, got {cells!r:.60}"
            )
        yield Document(f"{own}/{number}", write_row(zip(map(str, header), cells, strict=True)), title=title)


def _cells_of(row: Row, columns: Columns) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name, value in row.items() if name not in (columns.id, columns.title))


def _written(value: Any) -> str:
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, list) and not any(isinstance(each, list | Mapping) for each in value):
        return ", ".join(filter(None, map(_written, value)))
    if isinstance(value, list | Mapping):
        return json.dumps(value, ensure_ascii=False, default=str)
    return " ".join(str(value).split())


def _cell(row: Row, given: str, known: Sequence[str]) -> Any:
    return row.get(given) if given else next((row[name] for name in known if row.get(name) not in (None, "")), None)


def _text(row: Row, given: str, known: Sequence[str]) -> str:
    cell = _cell(row, given, known)
    if isinstance(cell, int | float):
        return str(cell)
    if cell is not None and not isinstance(cell, str):
        raise ValueError(
            f"expected text in column {given or '/'.join(known)}, got {cell!r:.60} ({type(cell).__name__})"
        )
    return cell or ""


def _picture(row: Row, columns: Columns) -> bytes:
    cells = list_pictures(_cell(row, columns.image, _IMAGE))
    if len(cells) != 1:
        raise ValueError(f"expected one picture, got {len(cells)}")
    encoded = read_picture(cells[0], columns.images)
    open_picture(encoded, name="a picture")
    return encoded
