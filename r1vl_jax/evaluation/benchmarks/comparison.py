"""All benchmarks in one table, beside the published rows."""

import re
from collections.abc import Mapping
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from r1vl_jax.evaluation.benchmarks.published import COLUMNS, PUBLISHED, average
from r1vl_jax.evaluation.benchmarks.tables import SUFFIXES
from r1vl_jax.evaluation.benchmarks.tasks import BENCHMARKS

_NONE = "–"


def find_files(directory: Path, *, results: bool = True) -> dict[str, Path]:
    """Benchmark -> the file in a directory of whose words the last that names a benchmark names this one.

    `R1-VL-7B_ChartQA_TEST.xlsx` is ChartQA's.

    Args:
        results: whether `chartqa/predictions.parquet` is ChartQA's, too.

    Raises:
        FileNotFoundError: it is no directory, or has no such file.
        ValueError: it has several of one benchmark.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory}: expected a directory with a file for each benchmark")
    found = {name: _files_of(name, directory, results=results) for name in BENCHMARKS}
    for name, paths in found.items():
        if len(paths) > 1:
            raise ValueError(f"{directory}: {', '.join(path.name for path in paths)} are all {name}'s; keep one")
    if not any(found.values()):
        raise FileNotFoundError(f"{directory}: no file here has one of {', '.join(BENCHMARKS)} in its name")
    return {name: path for name, paths in found.items() for path in paths}


def comparison_table(name: str, scores: Mapping[str, float]) -> Table:
    """The published rows, and below them one of the scores; an average where all eight are there.

    Args:
        name: of the row.
        scores: benchmark -> score.
    """
    table = Table("model")
    for each in COLUMNS:
        table.add_column(BENCHMARKS[each].title, justify="right")
    table.add_column("average, MME / 28", justify="right")
    for model, row in {**PUBLISHED, name: scores}.items():
        table.add_row(escape(model), *(_figure(each, row) for each in COLUMNS), _average(row))
    return table


def _figure(name: str, scores: Mapping[str, float]) -> str:
    if name not in scores:
        return _NONE
    return f"{scores[name]:.0f}" if name == "mme" else f"{scores[name]:.1f}"


def _average(scores: Mapping[str, float]) -> str:
    return f"{average(scores):.1f}" if all(name in scores for name in COLUMNS) else _NONE


def _files_of(name: str, directory: Path, *, results: bool) -> list[Path]:
    files = [path for path in sorted(directory.iterdir()) if path.is_file() and path.suffix in SUFFIXES]
    named = [path for path in files if _benchmark_in(path.stem) == name]
    written = directory / name / "predictions.parquet"
    return [*named, written] if results and written.is_file() else named


def _benchmark_in(stem: str) -> str | None:
    """The last benchmark that a name names: models may be called after one."""
    words = re.split(r"[^a-z0-9]+", stem.lower())
    return next((word for word in reversed(words) if word in BENCHMARKS), None)
