"""Controls of the ablation: rewards as functions of the user's own, and changed training records."""

import dataclasses
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from r1vl_jax import rewards
from r1vl_jax.data.digits.puzzles import HARD_KIND
from r1vl_jax.data.records import Record, open_split, split_names, write_splits

_ALPHA = 0.1  # weight of key steps in the recipe
_WHOLE = 0.05  # of the paths of `one_habit`, as many as the recipe's chances to go on by a step


def key_steps_alone(prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
    """The matched fraction of key steps, whatever the answer."""
    return _score(completions, columns).key_step_match.tolist()


def answer_and_number_of_steps(prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
    """The right answer, and in place of key steps as many steps as the record has key steps, whatever they say."""
    scored = _score(completions, columns)
    num_steps = np.array([completion.count("### Step") for completion in completions])
    most = np.array([len(key_steps) for key_steps in columns["key_steps"]])  # one a step, in the embedded task
    return (scored.answer_correct + _ALPHA * np.minimum(num_steps / most, 1)).tolist()


def shuffled_rewards(prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
    """The recipe's rewards, permuted within each group: equal in number, void of meaning."""
    total = _score(completions, columns).total
    rng = np.random.default_rng(zlib.crc32("".join(completions).encode()))
    groups = itertools.groupby(range(len(total)), key=lambda row: columns["id"][row])
    order = [row for _, group in groups for row in rng.permutation(list(group))]
    return total[order].tolist()


def _score(completions: list[str], columns: Mapping[str, list[Any]]) -> rewards.StepReward:
    records = [
        {"answer": answer, "key_steps": key_steps}
        for answer, key_steps in zip(columns["answer"], columns["key_steps"], strict=True)
    ]
    return rewards.score(completions, records)


def shuffled_key_steps(split: str, records: Iterable[Record]) -> Iterator[Record]:
    """Records of `train`, each with the key steps of another one."""
    records = list(records)
    order = np.random.default_rng(0).permutation(len(records)) if split == "train" else np.arange(len(records))
    for record, other in zip(records, order, strict=True):
        yield dataclasses.replace(record, key_steps=records[other].key_steps)


def one_habit(split: str, records: Iterable[Record]) -> Iterator[Record]:
    """Hard records of `warmup` with one draw for the whole path, where the recipe draws for each step."""
    rng = np.random.default_rng(0)
    for record in records:
        if split == "warmup" and record.kind == HARD_KIND.name:
            is_whole = rng.random() < _WHOLE
            record = dataclasses.replace(record, response=record.solution if is_whole else _at_once(record))
        yield record


def _at_once(record: Record) -> str:
    """The path of a record with the answer in place of its steps."""
    before, _, steps = record.solution.partition("### Step 1:")
    return f"{before}### Step 1:\nremainder={record.answer}\n\n{steps[steps.index('### The final') :]}"


CHANGES: Mapping[str, Callable[[str, Iterable[Record]], Iterator[Record]]] = {
    "shuffled_key_steps": shuffled_key_steps,
    "one_habit": one_habit,
}


def write_changed(name: str, source: Path, out: Path) -> None:
    """Writes the records of a directory with one of `CHANGES` made to them, unless they are there."""
    if not out.exists():
        splits = {split: CHANGES[name](split, open_split(source, split)) for split in split_names(source)}
        write_splits(out, splits, settings={"change": name})
