"""Scores predictions on a benchmark, or on all of them, without a model.

    python -m r1vl_jax.evaluation.score --benchmark=chartqa --predictions=FILE [--data=FILE] [--rules=2026-08]
        [--out=DIR] [--timeout_s=5]
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
from rich.console import Console

from r1vl_jax.evaluation.benchmarks import BENCHMARKS, RULES, Benchmark, Rules, read_predictions, score_rows, summarize
from r1vl_jax.evaluation.benchmarks.comparison import comparison_table, find_files
from r1vl_jax.evaluation.benchmarks.measures import SCORE
from r1vl_jax.evaluation.benchmarks.published import PUBLISHED
from r1vl_jax.evaluation.benchmarks.results import to_table, write_results
from r1vl_jax.observe.files import atomic_write, write_json
from r1vl_jax.observe.markdown import markdown_table
from r1vl_jax.rewards import Judge

_ALL = "all"


def main() -> None:
    name = flags.DEFINE_enum("benchmark", None, [*BENCHMARKS, _ALL], "Whose rule is used.", required=True)
    path = flags.DEFINE_string(
        "predictions", None, "File with a row for each prediction; a directory of files for all.", required=True
    )
    data = flags.DEFINE_string("data", "", "Likewise of the benchmark; by default its columns are in --predictions.")
    version = flags.DEFINE_enum("rules", "2026-08", list(RULES), "Version of the rules.")
    out = flags.DEFINE_string("out", "", "Directory of the results; by default they are only printed.")
    timeout_s = flags.DEFINE_float(
        "timeout_s", 5.0, "Processor time of a comparison in seconds, after which the answer is wrong.", lower_bound=0.1
    )

    def start(_: list[str]) -> None:
        directory = epath.Path(out.value) if out.value else None
        files = Path(path.value), RULES[version.value], Path(data.value) if data.value else None, directory
        try:
            if name.value == _ALL:
                score_directory(*files, timeout_s=timeout_s.value)
            else:
                score_file(BENCHMARKS[name.value], *files, timeout_s=timeout_s.value)
        except (ValueError, OSError) as error:
            raise SystemExit(str(error)) from None

    app.run(start)


def score_file(
    benchmark: Benchmark,
    path: Path,
    rules: Rules,
    data: Path | None = None,
    out: epath.Path | None = None,
    *,
    timeout_s: float = 5.0,
) -> dict[str, Any]:
    """Scores a file of predictions, prints the scores, writes them into `out`, and returns what `summarize` does.

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
    Console().print(to_table(benchmark, results))
    print(*results["notes"], sep="\n")
    return results


def score_directory(
    path: Path, rules: Rules, data: Path | None = None, out: epath.Path | None = None, *, timeout_s: float = 5.0
) -> dict[str, float]:
    """Scores the files of a directory, which `find_files` finds, and prints them beside the published scores.

    Args:
        data: a directory with files of the benchmarks.

    Returns:
        Benchmark -> score.

    Raises:
        FileNotFoundError, ValueError: as `score_file`; a file may be refused after others were scored.
    """
    files, data_files = find_files(path), find_files(data) if data else {}
    scores = {}
    for name, file in files.items():
        of_name = out / name if out is not None else None
        results = score_file(BENCHMARKS[name], file, rules, data_files.get(name), of_name, timeout_s=timeout_s)
        scores[name] = results["scores"][SCORE]["value"]
    table = comparison_table(f"{path.resolve().name}, rules {rules.name}", scores)
    if out is not None:
        atomic_write(out / "table.md", f"{markdown_table(table)}\n".encode())
        write_json(out / "table.json", {"rules": rules.name, "scores": scores, "published": PUBLISHED})
    Console().print(table)
    return scores


if __name__ == "__main__":
    main()
