"""Results of a benchmark: as files, and as a table to read."""

import csv
import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from etils import epath
from pyarrow import parquet
from rich.markup import escape
from rich.table import Table

from r1vl_jax.evaluation.benchmarks.excel import to_xlsx
from r1vl_jax.evaluation.benchmarks.outcome import Outcome, Row
from r1vl_jax.evaluation.benchmarks.tasks import Benchmark
from r1vl_jax.observe.files import atomic_write, read_json, write_json


def write_results(
    directory: epath.Path,
    rows: Sequence[Row],
    outcomes: Sequence[Outcome],
    results: dict[str, Any],
    *,
    writes_xlsx: bool = False,
) -> None:
    """Writes `predictions.parquet`, the predictions alone for VLMEvalKit, and `results.json`.

    Args:
        results: get notes on what an Excel file cannot hold.
        writes_xlsx: `predictions.xlsx` beside `predictions.tsv`.
    """
    atomic_write(directory / "predictions.parquet", _to_parquet(rows, outcomes))
    atomic_write(directory / "predictions.tsv", _to_tsv(rows))
    if writes_xlsx:
        content, notes = to_xlsx(rows)
        atomic_write(directory / "predictions.xlsx", content)
        results["notes"] += notes
    write_json(directory / "results.json", results)


def check_directory(directory: epath.Path, benchmark: Benchmark) -> None:
    """Raises ValueError if `write_results` would replace predictions that are not those of the benchmark."""
    written = read_json(directory / "evaluation.json") | read_json(directory / "results.json")
    earlier = written.get("benchmark")
    files = [name for name in ("predictions.parquet", "predictions.tsv") if (directory / name).exists()]
    if earlier != benchmark.name and (files or earlier):
        raise ValueError(
            f"{directory}: has {', '.join(files)} of {earlier or 'something else'}, which the results of"
            f" {benchmark.name} would replace; name another --out"
        )


def to_table(benchmark: Benchmark, results: dict[str, Any]) -> Table:
    """The scores with their intervals, and beside the first one the published ones."""
    title = f"{benchmark.title}, rules {results['rules']}, {results['num_rows']:,} rows"
    table = Table("", title=title)
    table.add_column("score", justify="right")
    table.add_column("95 % interval", justify="right")
    for name, score in results["scores"].items():
        interval = "" if score["low"] is None else f"{score['low']:.1f} to {score['high']:.1f}"
        table.add_row(escape(name), f"{score['value']:.1f}", interval)
    for model, value in results["published"].items():
        table.add_row(f"published: {model}", str(value), "")
    return table


def _to_parquet(rows: Sequence[Row], outcomes: Sequence[Outcome]) -> bytes:
    scored = [
        {**row, "extracted": outcome.extracted, "reason": outcome.comparison.reason}
        for row, outcome in zip(rows, outcomes, strict=True)
    ]
    table = pa.Table.from_pydict({name: pa.array([row[name] for row in scored], pa.string()) for name in scored[0]})
    is_right = pa.array([outcome.comparison.is_correct is True for outcome in outcomes])
    buffer = io.BytesIO()
    parquet.write_table(table.append_column("correct", is_right), buffer)
    return buffer.getvalue()


def _to_tsv(rows: Sequence[Row]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), dialect="excel-tab", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
