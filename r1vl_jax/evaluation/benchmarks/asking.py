"""Asks a model the questions of benchmarks, each with its pictures; one whose picture is broken is wrong, not asked."""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from etils import epath
from rich.console import Console

from r1vl_jax.data.pictures import open_picture
from r1vl_jax.data.prompts import EncodedPrompt
from r1vl_jax.data.records import UnusableRecord
from r1vl_jax.data.turns import Conversation, instruct
from r1vl_jax.evaluation.benchmarks.comparison import find_files
from r1vl_jax.evaluation.benchmarks.files import PREDICTION, read_benchmark
from r1vl_jax.evaluation.benchmarks.outcome import Row
from r1vl_jax.evaluation.benchmarks.pictures import Pictures, picture_column
from r1vl_jax.evaluation.benchmarks.prompts import question_text
from r1vl_jax.evaluation.benchmarks.report import Reporting, report, report_all
from r1vl_jax.evaluation.benchmarks.results import check_directory
from r1vl_jax.evaluation.benchmarks.tables import Table
from r1vl_jax.evaluation.benchmarks.tasks import ALL, BENCHMARKS, Benchmark
from r1vl_jax.evaluation.predictions import AnswerFn, Predictions, ask_usable, name_reasons

_SCHEMA = pa.schema([("index", pa.string()), (PREDICTION, pa.string()), ("has_ended", pa.bool_())])


@dataclass(frozen=True)
class Questions:
    """The questions of a benchmark's file.

    Attributes:
        rows: all of the file, or the first so many, without pictures.
    """

    benchmark: Benchmark
    path: Path
    rows: list[Row]

    @classmethod
    def open(cls, benchmark: Benchmark, path: Path, *, limit: int = 0) -> "Questions":
        """Reads all but the pictures.

        Args:
            limit: the first so many questions; 0 for all.

        Raises:
            FileNotFoundError, ValueError: as `read_benchmark`, or the file has no pictures.
        """
        rows = read_benchmark(path, benchmark)
        picture_column(path, Table(path).columns)
        return cls(benchmark, path, rows[: limit or None])


def open_questions(name: str, data: str, *, limit: int = 0) -> list[Questions]:
    """The questions of the benchmark of a name, or of all that have a file in a directory.

    Args:
        data: the file, or for all the directory.
        limit: the first so many of each; 0 for all.

    Raises:
        FileNotFoundError, ValueError: as `Questions.open` and `find_files`, or there are no data.
    """
    if not data:
        raise ValueError("--data: expected the file of the benchmark; for all, a directory with a file for each")
    files = find_files(Path(data), results=False) if name == ALL else {name: Path(data)}
    return [Questions.open(BENCHMARKS[each], path, limit=limit) for each, path in files.items()]


@dataclass(frozen=True)
class Model:
    """A model, as far as a benchmark needs it.

    Attributes:
        encode: raises ValueError for a conversation that it cannot take.
        answer: one sample for each of several prompts.
        instruction: how to answer, put after the pictures and before the question; "" for none.
        settings: what else decides the answers, as JSON values.
        name: as the user calls it.
    """

    encode: Callable[[Conversation], EncodedPrompt]
    answer: AnswerFn
    instruction: str
    settings: Mapping[str, Any]
    name: str = ""


@dataclass(frozen=True)
class Answered:
    """Questions with what a model said.

    Attributes:
        rows: every question; its prediction is "" if it was not asked.
        not_asked: index -> why.
        num_cut: answers that did not end within the most new tokens.
    """

    rows: list[Row]
    not_asked: dict[str, str]
    num_cut: int


def ask(questions: Questions, model: Model, out: Path, *, batch_size: int, console: Console | None = None) -> Answered:
    """Asks what was not asked before; answers are kept in `out`, as `Predictions` does.

    Raises:
        ValueError: `out` has answers of another model, of other questions or settings.
    """
    kept = {"benchmark": questions.benchmark.name, "num_questions": len(questions.rows)}
    kept |= {"data": _digest(questions.path), "instruction": model.instruction, **model.settings}
    keeping = {"batch_size": batch_size, "about": {"model": model.name}}
    predictions = Predictions(out, kept, schema=_SCHEMA, file="answers.parquet", **keeping)
    with contextlib.ExitStack() as stack:

        @functools.cache
        def pictures() -> Pictures:  # what is complete needs none
            return stack.enter_context(Pictures(questions.path, num_rows=len(questions.rows)))

        def predict(numbers: range) -> tuple[list[dict[str, Any]], dict[str, str]]:
            return _predict(questions, pictures(), model, numbers)

        name = questions.benchmark.name
        answers, not_asked = predictions.make(len(questions.rows), predict, stage=name, console=console)
    said = {answer["index"]: answer[PREDICTION] for answer in answers}
    rows = [row | {PREDICTION: said.get(row["index"], "")} for row in questions.rows]
    return Answered(rows, not_asked, sum(not answer["has_ended"] for answer in answers))


def ask_and_report(
    questions: Questions,
    model: Model,
    reporting: Reporting,
    out: Path,
    *,
    batch_size: int = 16,
    console: Console | None = None,
) -> dict[str, Any]:
    """Asks as `ask`, then scores, prints and writes as `report`; returns what `report` does."""
    check_directory(epath.Path(out), questions.benchmark)  # before hours of asking
    answered = ask(questions, model, out, batch_size=batch_size, console=console)
    num_left, num_cut = len(answered.not_asked), answered.num_cut
    notes = {
        f"questions that were not asked, and are wrong: {num_left} ({name_reasons(answered.not_asked)})": num_left,
        f"answers that were cut at the most new tokens: {num_cut}": num_cut,
    }
    said = [note for note, number in notes.items() if number]
    rows = answered.rows
    return report(questions.benchmark, rows, reporting, epath.Path(out), not_asked=answered.not_asked, notes=said)


def ask_all(
    several: Sequence[Questions],
    model: Model,
    reporting: Reporting,
    out: Path,
    *,
    batch_size: int = 16,
    console: Console | None = None,
) -> dict[str, float]:
    """Asks several benchmarks, each with a directory of its name in `out`, where the published table is filled.

    Returns:
        Benchmark -> score.
    """
    asking = {"batch_size": batch_size, "console": console}
    results = {
        each.benchmark.name: ask_and_report(each, model, reporting, out / each.benchmark.name, **asking)
        for each in several
    }
    return report_all(Path(model.name).name, results, reporting.rules, epath.Path(out))


def _predict(
    questions: Questions, pictures: Pictures, model: Model, numbers: range
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The answers to the questions of some rows, and why others were not asked, by index."""

    def encode(number: int) -> EncodedPrompt:
        row = questions.rows[number]
        try:
            return model.encode(_conversation(questions.benchmark, row, pictures.files_of(number), model.instruction))
        except ValueError as error:
            raise UnusableRecord(row["index"], str(error)) from error

    asked, answers, not_asked = ask_usable(numbers, encode, model.answer)
    rows = [
        {"index": questions.rows[number]["index"], PREDICTION: str(answer), "has_ended": bool(answer.has_ended)}
        for number, (answer,) in zip(asked, answers, strict=True)
    ]
    return rows, not_asked


def _conversation(benchmark: Benchmark, row: Row, files: list[bytes], instruction: str) -> Conversation:
    """One turn: the pictures, the instruction, the question."""
    images = []
    for content in files:
        try:
            images.append(open_picture(content, name=f"a picture of question {row['index']}"))
        except ValueError as error:
            raise ValueError(f"its image ({len(content):,} bytes) is unreadable: {error}") from error
    text = {"type": "text", "text": question_text(benchmark, row)}
    turn = {"role": "user", "content": [*({"type": "image"} for _ in images), text]}
    return Conversation(instruct([turn], instruction), images)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
