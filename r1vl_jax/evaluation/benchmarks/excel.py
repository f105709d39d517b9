"""Predictions as an Excel file for VLMEvalKit, which reads it with pandas: every cell is text but an index of integers.

openpyxl is imported where it is needed, since it is an extra.
"""

import io
from collections.abc import Sequence
from typing import Any

from r1vl_jax.evaluation.benchmarks.outcome import Row

MAX_CHARACTERS = 32_767  # of a cell, by Excel's rule


def import_openpyxl() -> Any:
    """The package.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import openpyxl
    except ImportError:
        raise ValueError("Excel files need openpyxl: pip install 'r1vl_jax[xlsx]', or use TSV") from None
    return openpyxl


def to_xlsx(rows: Sequence[Row]) -> tuple[bytes, list[str]]:
    """A workbook of one sheet, and a note for each thing that Excel does not allow.

    A cell beyond `MAX_CHARACTERS` is cut, and control characters become U+FFFD.

    Raises:
        ValueError: openpyxl is not installed.
    """
    openpyxl = import_openpyxl()
    forbidden = openpyxl.cell.cell.ILLEGAL_CHARACTERS_RE
    workbook = openpyxl.Workbook(write_only=True)
    sheet = workbook.create_sheet()
    sheet.append(list(rows[0]))
    num_cut = num_replaced = 0
    for row in rows:
        texts = {name: forbidden.sub("\N{REPLACEMENT CHARACTER}", text) for name, text in row.items()}
        num_replaced += texts != row
        num_cut += any(len(text) > MAX_CHARACTERS for text in texts.values())
        sheet.append([_cell(openpyxl, sheet, name, text[:MAX_CHARACTERS]) for name, text in texts.items()])
    buffer = io.BytesIO()
    workbook.save(buffer)
    notes = {f"cells cut at Excel's {MAX_CHARACTERS:,} characters": num_cut, "control characters lost": num_replaced}
    whole = "predictions.parquet has them whole"
    return buffer.getvalue(), [f"predictions.xlsx: {what} in rows: {n}; {whole}" for what, n in notes.items() if n]


def _cell(openpyxl: Any, sheet: Any, name: str, text: str) -> Any:
    """Text stays text, "=4" and "007", too; VLMEvalKit compares indices with numbers."""
    if name == "index" and text.isdecimal() and str(int(text)) == text:
        return int(text)
    cell = openpyxl.cell.WriteOnlyCell(sheet, text or None)
    cell.data_type = "s" if text else "n"
    return cell
