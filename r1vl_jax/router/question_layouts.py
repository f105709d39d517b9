"""Layouts of benchmarks: which cells of a row are the question, its golds and its picture, one function for each.

| layout | columns it is recognised by |
|---|---|
| ours | id, question, golds |
| InfoSeek | data_id, image_id, question |
| Dyn-VQA | image_url, question_id, question |
| WebQA | Q, A |
| WebQA in R1-Router's files | image_id, question, answer |
| Open-WikiTable | original_table_id, question, answer |
| 2WikiMultihopQA | _id, question, answer |
| TabFact | statement, label |
| R1-Router's other files | question, answer |
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from r1vl_jax.data.sources.files import Row
from r1vl_jax.router.picture_files import PictureFiles

_MAX_CANDIDATES = 10_000  # whole numbers of a range
_MAX_NUMBER = 1e15  # up to which a float tells whole numbers apart


@dataclass(frozen=True)
class Asked:
    """What a row asks.

    Attributes:
        golds: at least one.
        id, source: "" where the row has none.
        picture: reads it; None where there is none.
        retrievers: names of those that answer it, in order.
    """

    text: str
    golds: tuple[str, ...]
    id: str = ""
    source: str = ""
    picture: Callable[[PictureFiles], bytes] | None = None
    retrievers: tuple[str, ...] = ()


def read_asked(row: Row) -> Asked:
    """What a row asks, in the first layout whose columns it has.

    Raises:
        ValueError: it has the columns of none, or a cell is not what the layout has there.
    """
    for columns, read in _LAYOUTS:
        if all(column in row for column in columns):
            return read(row)
    expected = "; ".join(", ".join(columns) for columns, _ in _LAYOUTS)
    raise ValueError(f"expected the columns of a layout ({expected}), got {', '.join(map(str, row))[:200]}")


def range_candidates(low: float, high: float) -> Iterator[str]:
    """The numbers within a range, both ends included, as answers may have them.

    Whole numbers, at least; with one decimal below a width of 50, two below 5 and three below 1. Of more than 10,000
    whole numbers those of a power of ten are taken.

    Raises:
        ValueError: it is no range.
    """
    if not -_MAX_NUMBER < low <= high < _MAX_NUMBER:
        raise ValueError(
            f"expected a range of numbers between {-_MAX_NUMBER:g} and {_MAX_NUMBER:g}, got [{low}, {high}]"
        )
    for decimals in _decimals(high - low):
        unit = Decimal(1).scaleb(-decimals)
        first, last = (_steps(low, unit, ROUND_CEILING), _steps(high, unit, ROUND_FLOOR))
        yield from (f"{step * unit:f}" for step in range(first, last + 1))


def _decimals(width: float) -> range:
    """How many decimals the numbers of a range have; below 0, powers of ten."""
    if width > _MAX_CANDIDATES:
        power = math.ceil(math.log10(width / _MAX_CANDIDATES))
        return range(-power, -power + 1)
    return range(1 + (width < 50) + (width < 5) + (width < 1))


def _steps(number: float, unit: Decimal, rounding: str) -> int:
    """A number in units; what only the float's last digits miss is on the unit: 29.700000000000003 is 29.7."""
    return int((Decimal(repr(number)) / unit).quantize(Decimal("1e-6")).to_integral_value(rounding))


def _ours(row: Row) -> Asked:
    cell, retrievers = row.get("image"), row.get("retrievers") or []
    if not isinstance(retrievers, list) or not all(isinstance(name, str) for name in retrievers):
        raise ValueError(f"retrievers: expected a list of names, got {retrievers!r:.80}")
    return Asked(
        _text(row, "question"),
        _golds(row["golds"]),
        id=_id(row["id"]),
        source=str(row.get("source") or ""),
        picture=None if cell in (None, "") else lambda pictures: pictures.read(cell),
        retrievers=tuple(retrievers),
    )


def _infoseek(row: Row) -> Asked:
    name, cell = _id(row["image_id"]), row.get("answer_eval") or row.get("answer")
    entries = cell if isinstance(cell, list) else [cell]
    golds = tuple(gold for entry in entries for gold in _infoseek_golds(entry))
    return Asked(
        _text(row, "question"),
        _golds(list(dict.fromkeys(golds))),
        id=_id(row["data_id"]),
        source="infoseek",
        picture=lambda pictures: pictures.read_named(name),
    )


def _infoseek_golds(entry: Any) -> Iterator[str]:
    """An answer, or the candidates of `{"wikidata": 6.75, "range": [6.5, 7.0]}`."""
    if not isinstance(entry, Mapping):
        yield from _golds(entry)
        return
    ends = entry.get("range")
    if not isinstance(ends, list | tuple) or len(ends) != 2 or not all(map(_is_number, ends)):
        raise ValueError(f"answer_eval: expected a range of two numbers, got {entry!r:.80}")
    if _is_number(entry.get("wikidata")):
        yield f"{Decimal(repr(entry['wikidata'])):f}".removesuffix(".0")
    yield from range_candidates(*map(float, ends))


def _dyn_vqa(row: Row) -> Asked:
    url, name = _text(row, "image_url"), _id(row["question_id"])
    picture = lambda pictures: pictures.read_url(url, name)  # noqa: E731
    return Asked(_text(row, "question"), _golds(row.get("answer")), id=name, source="dyn-vqa", picture=picture)


def _webqa(row: Row) -> Asked:
    """The published layout, whose pictures belong to the sources and not to the question."""
    golds = tuple(_unquoted(gold) for gold in _golds(row["A"]))
    return Asked(_unquoted(_text(row, "Q")), _golds(list(golds)), id=str(row.get("Guid") or ""), source="webqa")


def _webqa_of_router(row: Row) -> Asked:
    name, golds = _id(row["image_id"]), [_unquoted(gold) for gold in _golds(row["answer"])]
    picture = lambda pictures: pictures.read_named(name)  # noqa: E731
    return Asked(_text(row, "question"), _golds(golds), source="webqa", picture=picture)


def _open_wikitable(row: Row) -> Asked:
    """Its answer is a list of cells, all of which are the answer."""
    cells = _golds(row["answer"])
    return Asked(
        _text(row, "question"), (" , ".join(cells),), id=str(row.get("question_id", "")), source="open-wikitable"
    )


def _two_wiki(row: Row) -> Asked:
    return Asked(_text(row, "question"), _golds(row["answer"]), id=_id(row["_id"]), source="2wikimultihopqa")


def _tabfact(row: Row) -> Asked:
    if (label := row["label"]) not in (0, 1):
        raise ValueError(f"label: expected 1 for entailed or 0 for refuted, got {label!r:.80}")
    text = f"Is it true that {_text(row, 'statement')}?"
    return Asked(text, ("yes" if label else "no",), id=str(row.get("id", "")), source="tabfact")


def _plain(row: Row) -> Asked:
    return Asked(_text(row, "question"), _golds(row["answer"]), id=str(row.get("id", "")))


_LAYOUTS: Sequence[tuple[tuple[str, ...], Callable[[Row], Asked]]] = (
    (("id", "question", "golds"), _ours),
    (("data_id", "image_id", "question"), _infoseek),
    (("image_url", "question_id", "question"), _dyn_vqa),
    (("Q", "A"), _webqa),
    (("image_id", "question", "answer"), _webqa_of_router),
    (("original_table_id", "question", "answer"), _open_wikitable),
    (("_id", "question", "answer"), _two_wiki),
    (("statement", "label"), _tabfact),
    (("question", "answer"), _plain),
)


def _golds(cell: Any) -> tuple[str, ...]:
    """The texts of a cell that is an answer or a list of answers, numbers among them."""
    cells = cell if isinstance(cell, list | tuple) else [cell]
    golds = tuple(str(each).strip() for each in cells if isinstance(each, str) or _is_number(each))
    if len(golds) != len(cells) or not golds or not all(golds):
        raise ValueError(f"expected an answer or a list of answers, none of them empty, got {cell!r:.80}")
    return golds


def _text(row: Row, column: str) -> str:
    if not isinstance(text := row[column], str) or not text.strip():
        raise ValueError(f"{column}: expected a text, got {text!r:.80}")
    return text.strip()


def _id(cell: Any) -> str:
    if isinstance(cell, bool) or not isinstance(cell, str | int) or cell == "":
        raise ValueError(f"expected an id, got {cell!r:.80}")
    return str(cell)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _unquoted(text: str) -> str:
    """WebQA's texts stand in quotation marks."""
    is_quoted = len(text) > 1 and text[0] == text[-1] == '"'
    return text[1:-1].strip() if is_quoted else text
