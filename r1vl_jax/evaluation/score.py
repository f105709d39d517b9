"""Scores predictions on a benchmark, without a model.

    python -m r1vl_jax.evaluation.score --benchmark=chartqa --predictions=FILE [--data=FILE] [--rules=2026-08]
        [--out=DIR]

FILE is a prediction file of VLMEvalKit (.xlsx or .tsv), or a Parquet file with the benchmark's columns and
`prediction`; with `--data`, the benchmark's own file, `index` and `prediction` are enough. OUT/results.json has the
scores, OUT/predictions.parquet and OUT/predictions.tsv every row with what was read in it and whether it is right.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from absl import app, flags
from etils import epath
from pyarrow import parquet
from rich.console import Console
from rich.table import Table

from r1vl_jax.evaluation.benchmarks import BENCHMARKS, RULES, Benchmark, Rules, read_predictions, score_rows, summarize
from r1vl_jax.evaluation.benchmarks.outcome import Outcome, Row
from r1vl_jax.observe.files import atomic_write, write_json
from r1vl_jax.rewards import Judge


def main() -> None:
    name = flags.DEFINE_enum("benchmark", None, list(BENCHMARKS), "Whose rule is used.", required=True)
    path = flags.DEFINE_string("predictions", None, "File with a row for each prediction.", required=True)
    data = flags.DEFINE_string("data", "", "File of the benchmark; by default its columns are in --predictions.")
    version = flags.DEFINE_enum("rules", "2026-08", list(RULES), "Version of the rules.")
    out = flags.DEFINE_string("out", "", "Directory of the results; by default they are only printed.")
    timeout_s = flags.DEFINE_float(
        "timeout_s", 5.0, "Processor time of a comparison in seconds, after which the answer is wrong.", lower_bound=0.1
    )

    def start(_: list[str]) -> None:
        benchmark = BENCHMARKS[name.value]
        try:
            results = score_file(
                Path(path.value),
                benchmark,
                RULES[version.value],
                data=Path(data.value) if data.value else None,
                out=epath.Path(out.value) if out.value else None,
                timeout_s=timeout_s.value,
            )
        except (ValueError, OSError) as error:
            raise SystemExit(str(error)) from None
        Console().print(to_table(benchmark, results))
        print("\n".join(results["notes"]))

    app.run(start)


def score_file(
    path: Path,
    benchmark: Benchmark,
    rules: Rules,
    *,
    data: Path | None = None,
    out: epath.Path | None = None,
    timeout_s: float = 5.0,
) -> dict[str, Any]:
    """Scores a file of predictions, writes the results into `out`, if given, and returns what `summarize` does.

    Args:
        data: file of the benchmark, for predictions without its columns.
        timeout_s: processor time of a comparison by math-verify in seconds.

    Raises:
        FileNotFoundError, ValueError: a file cannot be used; one sentence says why.
    """
    rows = read_predictions(path, benchmark, data)
    with Judge(num_workers=2, timeout_s=timeout_s) as judge:
        outcomes = score_rows(benchmark, rows, rules, judge)
    results = summarize(benchmark, rows, outcomes, rules)
    if out is not None:
        write_results(out, rows, outcomes, results)
    return results


def write_results(
    directory: epath.Path, rows: Sequence[Row], outcomes: Sequence[Outcome], results: dict[str, Any]
) -> None:
    """Writes `predictions.parquet`, the same as `predictions.tsv` for VLMEvalKit, and `results.json`."""
    scored = [
        {**row, "extracted": outcome.extracted, "reason": outcome.comparison.reason}
        for row, outcome in zip(rows, outcomes, strict=True)
    ]
    table = pa.Table.from_pydict({name: pa.array([row[name] for row in scored], pa.string()) for name in scored[0]})
    is_right = pa.array([outcome.comparison.is_correct is True for outcome in outcomes])
    buffer = io.BytesIO()
    parquet.write_table(table.append_column("correct", is_right), buffer)
    atomic_write(directory / "predictions.parquet", buffer.getvalue())
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), dialect="excel-tab", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_write(directory / "predictions.tsv", text.getvalue().encode())
    write_json(directory / "results.json", results)


def to_table(benchmark: Benchmark, results: dict[str, Any]) -> Table:
    """The scores with their intervals, and beside the first one the published ones."""
    title = f"{benchmark.title}, rules {results['rules']}, {results['num_rows']:,} rows"
    table = Table("", title=title)
    table.add_column("score", justify="right")
    table.add_column("95 % interval", justify="right")
    for name, score in results["scores"].items():
        interval = "" if score["low"] is None else f"{score['low']:.1f} to {score['high']:.1f}"
        table.add_row(name, f"{score['value']:.1f}", interval)
    for model, value in results["published"].items():
        table.add_row(f"published: {model}", str(value), "")
    return table


if __name__ == "__main__":
    main()
