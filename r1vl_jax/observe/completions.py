"""Sampled completions with their rewards: Parquet files, and a table on the console."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from etils import epath
from pyarrow import parquet
from rich.console import Console
from rich.table import Table
from rich.text import Text

from r1vl_jax.observe.files import atomic_write

Row = Mapping[str, Any]

# A row is a completion. `prompt` is the question; `image` the file of its first image or frame, or empty;
# `answer_reason` why the answer is right or wrong; `key_steps` and `key_step_spans` are JSON: the spellings of each key
# step, and where it matched, [start, end) in characters of `completion`. `turns`, of rollouts of several turns, is
# JSON, too: what each turn was given and what was written; `completion` is then what was written last.
_TEXTS = ("prompt", "kind", "answer", "answer_reason", "key_steps", "completion", "key_step_spans", "turns")
SCHEMA = pa.schema(
    [("step", pa.int64())]
    + [(name, pa.string()) for name in _TEXTS]
    + [("image", pa.binary())]
    + [(name, pa.float64()) for name in ("reward", "step_accuracy", "step_validity", "answer_correct")]
    + [(name, pa.float64()) for name in ("key_step_match", "complete", "ordered", "advantage")]
)


def write_completions(
    workdir: epath.PathLike, step: int, rows: Sequence[Row], *, extra_columns: Iterable[str] = ()
) -> epath.Path:
    """Writes `completions/completions_{step:05d}.parquet`; rows of one prompt are neighbours.

    Args:
        rows: a value for each column of `SCHEMA` and each extra column.
        extra_columns: names of custom rewards; NaN, where a reward does not apply, is written as null.

    Raises:
        ValueError: a row lacks a column or has another one.
    """
    schema = pa.schema([*SCHEMA, *((name, pa.float64()) for name in extra_columns)])
    for row in rows:
        if row.keys() != set(schema.names):
            raise ValueError(
                f"a completion of step {step}: missing columns {sorted(set(schema.names) - row.keys())},"
                f" unknown columns {sorted(row.keys() - set(schema.names))}; expected {schema.names}"
            )
    columns = [pa.array([row[field.name] for row in rows], field.type, from_pandas=True) for field in schema]
    buffer = io.BytesIO()
    parquet.write_table(pa.Table.from_arrays(columns, schema=schema), buffer)
    path = epath.Path(workdir) / "completions" / f"completions_{step:05d}.parquet"
    atomic_write(path, buffer.getvalue())
    return path


def read_completions(path: epath.Path) -> list[dict[str, Any]]:
    """The rows of one file."""
    # Without Arrow's threads, which have aborted the process at exit ("terminate called without an active exception").
    return parquet.ParquetFile(io.BytesIO(path.read_bytes())).read(use_threads=False).to_pylist()


def custom_rewards(row: Row) -> dict[str, float]:
    """The rewards of the user's own functions, without those that do not apply."""
    extra = {name: value for name, value in row.items() if name not in SCHEMA.names}
    return {name: value for name, value in extra.items() if value is not None and not math.isnan(value)}


def print_completions(rows: Sequence[Row], *, console: Console | None = None) -> None:
    """Prints completions and their rewards as a table; the model's text is never interpreted as markup."""
    table = Table(
        title=f"completions of step {rows[0]['step']}" if rows else "no completions", show_lines=True, expand=True
    )
    table.add_column("question", ratio=1, overflow="fold")
    table.add_column("completion", ratio=3, overflow="fold")
    table.add_column("rewards", no_wrap=True)
    for row in rows:
        table.add_row(
            *(
                Text(show_control_characters(cell))
                for cell in (_question_cell(row), row["completion"], _rewards_cell(row))
            )
        )
    (console or Console()).print(table)


def question_text(row: Row) -> str:
    """The question without its placeholders."""
    return row["prompt"].replace("<image>", "").replace("<video>", "").strip()


def _question_cell(row: Row) -> str:
    return f"{question_text(row)}\n\nanswer: {row['answer']}"


def _rewards_cell(row: Row) -> str:
    shown = {"reward": "reward", "accuracy": "step_accuracy", "validity": "step_validity", "advantage": "advantage"}
    lines = [(label, row[name]) for label, name in shown.items()]
    lines[-1:-1] = [(name, value) for name, value in custom_rewards(row).items()]
    return "\n".join(f"{label:<9} {value:5.2f}" for label, value in lines)


def show_control_characters(text: str) -> str:
    """Replaces control characters by visible symbols, so that text cannot control a terminal or a page."""
    return text.translate(_CONTROL_SYMBOLS)


_CONTROL_SYMBOLS = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"}
_CONTROL_SYMBOLS |= {0x7F: "\u2421"} | dict.fromkeys(range(0x80, 0xA0), "\ufffd")
