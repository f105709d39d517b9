"""Predictions of a model on a data set: kept in parts while they are made, in one Parquet file at the end.

OUT/evaluation.json      what is evaluated, and how
OUT/parts/*.parquet      a file for each batch, until all are there
OUT/predictions.parquet  a row for each sample of each record, without the pictures
OUT/summary.json         accuracies and rewards, see `summarize`

Of a benchmark, OUT/answers.parquet has what was said, and `benchmarks.report` writes the rest.
"""

import io
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from etils import epath
from pyarrow import parquet
from rich.console import Console

from r1vl_jax import rewards
from r1vl_jax.data.prompts import EncodedPrompt
from r1vl_jax.data.records import Record, UnusableRecord
from r1vl_jax.evaluation.pass_at_k import pass_at_powers
from r1vl_jax.observe.files import atomic_write, read_json, write_json
from r1vl_jax.observe.progress import Progress

Row = dict[str, Any]
Item = TypeVar("Item")
# Of prompts, for each its samples: strings with `has_ended`.
AnswerFn = Callable[[Sequence[EncodedPrompt]], Sequence[Sequence[Any]]]

_DROPPED = b"dropped"  # metadata of the files: id -> reason, as JSON
_REWARDS = ("total", "step_accuracy", "step_validity", "key_step_match", "complete", "ordered")
SCHEMA = pa.schema(
    [("sample", pa.int64()), ("correct", pa.bool_()), ("has_ended", pa.bool_())]
    + [(name, pa.string()) for name in ("id", "system", "history", "problem", "answer", "other_answers")]
    + [(name, pa.string()) for name in ("kind", "source", "key_steps")]
    + [(name, pa.string()) for name in ("prediction", "extracted", "reason")]
    + [(name, pa.float64()) for name in _REWARDS]
)


class Predictions:
    """The predictions in a directory; started again with the same settings, it goes on where it stopped.

    Args:
        directory: is made.
        settings: what decides the predictions, as JSON values. With a `temperature` the batches do, too.
        batch_size: items that are predicted at one time.
        about: is kept with the settings, and may change.
        schema: of the rows.
        file: that all rows are joined in.

    Raises:
        ValueError: the directory has predictions of other settings, or of unknown ones; names those that differ.
    """

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, Any],
        *,
        batch_size: int,
        about: Mapping[str, Any] = MappingProxyType({}),
        schema: pa.Schema = SCHEMA,
        file: str = "predictions.parquet",
    ):
        self._directory, self._schema, self._batch_size = epath.Path(directory), schema, batch_size
        self._joined = self._directory / file
        path = self._directory / "evaluation.json"
        earlier = read_json(path)
        if not earlier and self._joined.exists():
            raise ValueError(f"{self._joined}: is of something else; name another --out, or delete it")
        decides, about = dict(settings), {**about, "batch_size": batch_size}
        if settings.get("temperature"):
            decides["batch_size"] = about.pop("batch_size")
        names = (decides.keys() | earlier.keys()) - about.keys()
        changed = sorted(name for name in names if decides.get(name) != earlier.get(name))
        if changed and earlier:
            shown = [f"{name}: {earlier.get(name)!r}, now {decides.get(name)!r}" for name in changed]
            raise ValueError(
                f"{directory}: has predictions made with other settings; give the same to go on, or name another"
                " --out:\n  " + "\n  ".join(shown)
            )
        if not earlier:
            write_json(path, decides | about)

    def make(
        self,
        num_items: int,
        predict: Callable[[range], tuple[list[Row], dict[str, str]]],
        *,
        stage: str = "evaluate",
        console: Console | None = None,
    ) -> tuple[list[Row], dict[str, str]]:
        """Predicts the items that are not there yet; returns the rows and reasons of all.

        Args:
            predict: numbers of items -> their rows, and the reasons why items have none, by name.
            stage: label of the progress that `console` shows.
        """
        num_done = num_items if self._joined.exists() else self._num_done()
        with Progress(stage, num_items, first=num_done, console=console) as progress:
            for start in range(num_done, num_items, self._batch_size):
                batch = range(num_items)[start : start + self._batch_size]
                atomic_write(self._part(batch), self._to_parquet(*predict(batch)))
                progress.update(batch.stop)
        return self._join()

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes what `summarize` says."""
        write_json(self._directory / "summary.json", dict(summary))

    def _part(self, items: range) -> epath.Path:
        return self._directory / "parts" / f"part_{items.start:06d}_{items.stop:06d}.parquet"

    def _parts(self) -> list[tuple[int, epath.Path]]:
        """The end of each part, and its file, from the first item on."""
        files = sorted((self._directory / "parts").glob("part_*_*.parquet"))
        return [(int(file.stem.rpartition("_")[2]), file) for file in files]

    def _num_done(self) -> int:
        return max((end for end, _ in self._parts()), default=0)

    def _join(self) -> tuple[list[Row], dict[str, str]]:
        """The rows and reasons of all parts, which become one file."""
        files = [self._joined] if self._joined.exists() else [file for _, file in self._parts()]
        rows: list[Row] = []
        dropped: dict[str, str] = {}
        for file in files:
            table = _read(file)
            rows += table.to_pylist()
            dropped |= json.loads((table.schema.metadata or {}).get(_DROPPED, b"{}"))
        if not self._joined.exists():
            atomic_write(self._joined, self._to_parquet(rows, dropped))
        (self._directory / "parts").rmtree(missing_ok=True)
        return rows, dropped

    def _to_parquet(self, rows: Sequence[Row], dropped: Mapping[str, str]) -> bytes:
        schema = self._schema.with_metadata({_DROPPED: json.dumps(dict(dropped)).encode()})
        buffer = io.BytesIO()
        parquet.write_table(pa.Table.from_pylist(list(rows), schema=schema), buffer)
        return buffer.getvalue()


def ask_usable(
    items: Sequence[Item], encode: Callable[[Item], EncodedPrompt], answer: AnswerFn
) -> tuple[list[Item], Sequence[Sequence[Any]], dict[str, str]]:
    """Asks those of several items that can be asked, in one batch.

    Args:
        encode: raises `UnusableRecord` for an item that cannot be asked.

    Returns:
        The usable items, the samples of each, and why the others cannot be asked, by name.
    """
    usable, prompts, dropped = [], [], {}
    for item in items:
        try:
            prompts.append(encode(item))
            usable.append(item)
        except UnusableRecord as error:
            dropped[error.name] = error.reason
    return usable, answer(prompts) if prompts else [], dropped


def name_reasons(reasons: Mapping[str, str], *, most: int = 5) -> str:
    """The first of several reasons, with the names of what they are about."""
    return "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:most])


def score_answers(
    records: Sequence[Record], answers: Sequence[Sequence[Any]], *, semantics: str, judge: rewards.Judge
) -> list[Row]:
    """A row for each answer to each record: the answer that was read in it, whether it is right and why, and rewards.

    Args:
        answers: for each record its samples, strings with `has_ended`.
    """
    pairs = [(record, answer) for record, samples in zip(records, answers, strict=True) for answer in samples]
    samples = [index for of_record in answers for index in range(len(of_record))]
    targets, texts = [asdict(record) for record, _ in pairs], [str(answer) for _, answer in pairs]
    reward = rewards.score(texts, targets, semantics=semantics, judge=judge)
    explained = rewards.explain_completions(texts, targets, semantics=semantics, judge=judge)
    return [
        {
            "sample": samples[row],
            "correct": bool(reward.answer_correct[row]),
            "has_ended": bool(answer.has_ended),
            **{name: getattr(record, name) for name in ("id", "system", "problem", "answer", "kind", "source")},
            "history": json.dumps(record.history, ensure_ascii=False),
            "other_answers": json.dumps(record.other_answers, ensure_ascii=False),
            "key_steps": json.dumps(record.key_steps, ensure_ascii=False),
            "prediction": texts[row],
            "extracted": explained[row].prediction,
            "reason": explained[row].reason,
            **{name: float(getattr(reward, name)[row]) for name in _REWARDS},
        }
        for row, (record, answer) in enumerate(pairs)
    ]


def summarize(rows: Sequence[Row], *, num_records: int, dropped: Mapping[str, str]) -> dict[str, Any]:
    """Means over predictions, and what they are means of.

    Returns:
        `accuracy`, the fraction of right samples; `accuracy_by_kind`; `pass_at_k` (unbiased, for powers of two up to
        the samples of a record); means of the rewards and of `has_ended`; `num_records` evaluated, which is what
        fractions are of, and `dropped`, id -> reason.
    """
    by_record: dict[str, list[bool]] = defaultdict(list)
    by_kind: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        by_record[row["id"]].append(row["correct"])
        by_kind[row["kind"]].append(row["correct"])
    means = {name: _mean([row[name] for row in rows]) for name in ("has_ended", *_REWARDS)}
    return means | {
        "accuracy": _mean([row["correct"] for row in rows]),
        "accuracy_by_kind": {kind: _mean(values) for kind, values in sorted(by_kind.items()) if kind},
        "pass_at_k": {str(k): value for k, value in pass_at_powers(list(by_record.values())).items()},
        "num_records": num_records - len(dropped),
        "dropped": dict(dropped),
    }


def _mean(values: Sequence[Any]) -> float:
    return float(np.mean(values)) if values else 0.0


def _read(path: epath.Path) -> pa.Table:
    # Without Arrow's threads, which have aborted the process at exit.
    return parquet.ParquetFile(io.BytesIO(path.read_bytes())).read(use_threads=False)
