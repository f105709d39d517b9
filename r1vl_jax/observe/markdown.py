"""Tables as Markdown, with the command, machine and date that a page of results gives beside them."""

import datetime
import os
import platform
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.table import Table


def markdown_table(table: Table) -> str:
    """A table that rich prints, as Markdown; columns keep their alignment."""
    rules = ["---:" if column.justify == "right" else "---" for column in table.columns]
    rows = zip(*(column.cells for column in table.columns), strict=True)
    return "\n".join(map(_row, ([column.header for column in table.columns], rules, *rows)))


def provenance(command: Sequence[str], packages: Iterable[str] = ()) -> str:
    """One line: command, processor, packages with their versions, date.

    Args:
        packages: such as "jax 0.10.2".
    """
    facts = [f"{os.cpu_count()} cores of {processor()}", *packages, datetime.date.today().isoformat()]
    return f"`{shlex.join(command)}` ({', '.join(facts)})"


def processor() -> str:
    """The processor's model, as far as the system names it."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return model[1] if model else platform.processor()


def _row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(str(cell).strip().replace('|', chr(92) + '|') for cell in cells)} |"
