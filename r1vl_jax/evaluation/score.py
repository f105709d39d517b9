"""Scores predictions on a benchmark, or on all of them, without a model.

    python -m r1vl_jax.evaluation.score --benchmark=chartqa --predictions=FILE [--data=FILE] [--rules=2026-08]
        [--out=DIR] [--xlsx] [--timeout_s=5]
    python -m r1vl_jax.evaluation.score --benchmark=all --predictions=DIR [--data=DIR] ...

FILE is a prediction file of VLMEvalKit (.xlsx or .tsv), or a Parquet file with the benchmark's columns and
`prediction`; with `--data`, the benchmark's own file, `index` and `prediction` are enough. OUT/results.json has the
scores, OUT/predictions.parquet and OUT/predictions.tsv every row with what was read in it and whether it is right.
For all, each benchmark has these in a directory of its name, and OUT/table.md and OUT/table.json have the scores beside
the published ones.
"""

from pathlib import Path
from typing import Any

from absl import app, flags
from etils import epath

from r1vl_jax.evaluation.benchmarks import (
    ALL,
    BENCHMARKS,
    RULES,
    Benchmark,
    Reporting,
    find_files,
    read_predictions,
    report,
    report_all,
)


def main() -> None:
    name = flags.DEFINE_enum("benchmark", None, [*BENCHMARKS, ALL], "Whose rule is used.", required=True)
    path = flags.DEFINE_string(
        "predictions", None, "File with a row for each prediction; a directory of files for all.", required=True
    )
    data = flags.DEFINE_string("data", "", "Likewise of the benchmark; by default its columns are in --predictions.")
    version = flags.DEFINE_enum("rules", "2026-08", list(RULES), "Version of the rules.")
    out = flags.DEFINE_string("out", "", "Directory of the results; by default they are only printed.")
    xlsx = flags.DEFINE_bool("xlsx", False, "Write predictions.xlsx, too.")
    timeout_s = flags.DEFINE_float(
        "timeout_s", 5.0, "Processor time of a comparison in seconds, after which the answer is wrong.", lower_bound=0.1
    )

    def start(_: list[str]) -> None:
        directory = epath.Path(out.value) if out.value else None
        try:
            if xlsx.value and directory is None:
                raise ValueError("--xlsx: expected --out=DIR, where predictions.xlsx is written")
            reporting = Reporting(RULES[version.value], timeout_s.value, writes_xlsx=xlsx.value)
            files = Path(path.value), reporting, Path(data.value) if data.value else None, directory
            if name.value == ALL:
                score_directory(*files)
            else:
                score_file(BENCHMARKS[name.value], *files)
        except (ValueError, OSError) as error:
            raise SystemExit(str(error)) from None

    app.run(start)


def score_file(
    benchmark: Benchmark,
    path: Path,
    reporting: Reporting,
    data: Path | None = None,
    out: epath.Path | None = None,
) -> dict[str, Any]:
    """Scores a file of predictions, prints the scores, writes them into `out`, and returns what `summarize` does.

    Args:
        data: file of the benchmark, for predictions without its columns.

    Raises:
        FileNotFoundError, ValueError: a file cannot be used; one sentence says why.
    """
    return report(benchmark, read_predictions(path, benchmark, data), reporting, out)


def score_directory(
    path: Path, reporting: Reporting, data: Path | None = None, out: epath.Path | None = None
) -> dict[str, float]:
    """Scores the files of a directory, which `find_files` finds, and prints them beside the published scores.

    Args:
        data: a directory with files of the benchmarks.

    Returns:
        Benchmark -> score.

    Raises:
        FileNotFoundError, ValueError: as `score_file`; before any is scored.
    """
    files, data_files = find_files(path), find_files(data, results=False) if data else {}
    rows = {name: read_predictions(file, BENCHMARKS[name], data_files.get(name)) for name, file in files.items()}
    results = {
        name: report(BENCHMARKS[name], rows[name], reporting, out / name if out is not None else None) for name in rows
    }
    return report_all(path.resolve().name, results, reporting.rules, out)


if __name__ == "__main__":
    main()
