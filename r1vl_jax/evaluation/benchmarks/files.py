"""Files of the benchmarks, and of predictions on them: the layout of VLMEvalKit, and those of the Hugging Face hub.

A row is a mapping of columns to texts, without its pictures.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from r1vl_jax.evaluation.benchmarks.hub import find_layout
from r1vl_jax.evaluation.benchmarks.outcome import Row
from r1vl_jax.evaluation.benchmarks.tables import MAX_CELL, Table, to_text
from r1vl_jax.evaluation.benchmarks.tasks import BENCHMARKS, COMMON_COLUMNS, Benchmark

PREDICTION = "prediction"
_PICTURE = re.compile(r"(?:decoded_)?images?(?:_\d+|_bytes)?")
_RESULTS = ("extracted", "correct", "reason")  # of an earlier scoring, which are made anew
_INDEX_NAMES = ("id",)  # where predictions have their index, besides in `index`
_NUM_NAMED = 5  # of many indices


def read_benchmark(path: Path, benchmark: Benchmark) -> list[Row]:
    """The questions of a benchmark.

    Raises:
        FileNotFoundError, ValueError: there is no such file, it is damaged, lacks columns, or has an index twice.
    """
    return _read(path, benchmark, (*COMMON_COLUMNS, *benchmark.columns))


def read_predictions(path: Path, benchmark: Benchmark, data: Path | None = None) -> list[Row]:
    """The predictions on a benchmark, each with its question's columns.

    Args:
        data: the file of the benchmark, whose columns then need not be in that of the predictions; a question without
            a prediction gets an empty one.

    Raises:
        FileNotFoundError, ValueError: as `read_benchmark`, or a prediction is on a question that `data` has not.
    """
    if data is None:
        return _read(path, benchmark, (*COMMON_COLUMNS, *benchmark.columns, PREDICTION))
    predicted = {row["index"]: row for row in _read(path, benchmark, ("index", PREDICTION))}
    rows = read_benchmark(data, benchmark)
    if unknown := predicted.keys() - {row["index"] for row in rows}:
        raise ValueError(
            f"{path}: {len(unknown)} of its {len(predicted)} predictions are on no question of {data}: indices"
            f" {_named(sorted(unknown))}; give the file that the questions were taken from"
        )
    return [row | {PREDICTION: predicted.get(row["index"], {}).get(PREDICTION, "")} for row in rows]


def _read(path: Path, benchmark: Benchmark, required: Sequence[str]) -> list[Row]:
    table = Table(path)
    layout = find_layout(benchmark.name, table.columns)
    column_of = {
        name: _column(name, table.columns, benchmark) for name in required if layout is None or name not in layout.makes
    }
    if path.suffix == ".parquet" and PREDICTION not in required and column_of.get("index", "") is None:
        column_of.pop("index")  # of a data set on the hub, which counts its rows
    _check_columns(path, benchmark, table.columns, [name for name, found in column_of.items() if found is None])
    renamed = {found: name for name, found in column_of.items() if found}
    rows: list[Row] = []
    for number, cells in enumerate(table.rows(lambda name: not _is_picture(name) and name not in _RESULTS), start=1):
        row = {"index": str(number - 1)} | {renamed.get(name, name): to_text(cell) for name, cell in cells.items()}
        _check_lengths(path, number, row)
        rows.append(row)
    rows = rows if layout is None else layout.convert(rows)
    _check_indices(path, benchmark, rows)
    return rows


def _is_picture(column: str) -> bool:
    return _PICTURE.fullmatch(column) is not None


def _column(name: str, columns: Sequence[str], benchmark: Benchmark) -> str | None:
    others = benchmark.other_names.get(name, ()) + (_INDEX_NAMES if name == "index" else ())
    return next((each for each in (name, *others) if each in columns), None)


def _check_columns(path: Path, benchmark: Benchmark, columns: Sequence[str], missing: Sequence[str]) -> None:
    if not missing:
        return
    fitting = [each for each in BENCHMARKS.values() if all(_column(name, columns, each) for name in each.columns)]
    best = max(fitting, key=lambda each: len(each.columns), default=None)
    kind = "predictions" if PREDICTION in missing else "files"
    looks = f"; it looks like a file of {best.title}, --benchmark={best.name}" if best and best != benchmark else ""
    raise ValueError(
        f"{path}: lacks {', '.join(missing)}, which {benchmark.title}'s {kind} have{looks}; its columns are"
        f" {', '.join(columns) or 'none'}"
    )


def _check_lengths(path: Path, number: int, row: Row) -> None:
    for name, cell in row.items():
        if len(cell) >= MAX_CELL:
            raise ValueError(f"{path}: row {number}: {name} has more than {MAX_CELL:,} characters; mend the row")


def _check_indices(path: Path, benchmark: Benchmark, rows: Sequence[Row]) -> None:
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows, start=1):
        rows_of[row["index"]].append(number)
    if repeated := {index: numbers for index, numbers in rows_of.items() if len(numbers) > 1}:
        index, numbers = next(iter(repeated.items()))
        raise ValueError(
            f"{path}: {len(repeated)} of {len(rows_of)} indices stand on several rows, such as {index!r} on rows"
            f" {', '.join(map(str, numbers[:_NUM_NAMED]))}; keep one row of each"
        )
    if not rows:
        raise ValueError(f"{path}: has no rows")
    if "l2-category" in benchmark.columns and (wrong := [i for i in rows_of if len(i.split("_")) != 6]):
        raise ValueError(
            f"{path}: expected indices of six parts joined by _, of which the last three are set, figure and question;"
            f" got {_named(wrong)}"
        )


def _named(items: Sequence[str]) -> str:
    more = f" and {len(items) - _NUM_NAMED} more" if len(items) > _NUM_NAMED else ""
    return ", ".join(map(repr, items[:_NUM_NAMED])) + more
