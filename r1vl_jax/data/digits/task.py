"""The embedded task: recognising handwritten digits and reasoning about them, on data that ships with scikit-learn.

The training splits (`vision_pretrain`, `warmup`, `train`), `validation` and `test` share neither scans nor problems.
"""

import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from rich.progress import track

from r1vl_jax.data.digits.puzzles import MAKERS, OPENINGS, Puzzle, digits_in_description
from r1vl_jax.data.digits.scans import load_scans, render
from r1vl_jax.data.placeholders import IMAGE_PLACEHOLDER
from r1vl_jax.data.records import Record, read_settings, write_splits
from r1vl_jax.response_format import DESCRIPTION

_SOURCE = "digits"
_MAX_TRIES = 100


def write(
    directory: str | os.PathLike,
    *,
    difficulty: int,
    shortcut_fraction: float = 0.0,
    vision_pretrain_records: int = 0,
    warmup_records: int,
    train_records: int,
    eval_records: int,
    seed: int,
    show_progress: bool = False,
):
    """Writes the splits vision_pretrain, warmup, train, validation and test, unless the directory exists.

    Records of `vision_pretrain` show one digit, and their response names it. Records of `warmup` have a reasoning path
    as their response, with rationales in varied wording. Records of `train` have no response, and only the answer as
    their solution. Records of `validation` and `test` have the reference path as their solution, which
    `recognized_digits` compares with.

    Args:
        difficulty: 1 to 3; more digits, more operators.
        shortcut_fraction: fraction of the `warmup` responses that state the result without the steps to it, 0 to 1.
        vision_pretrain_records, warmup_records, train_records: size of each split; 0 writes no vision_pretrain.
        eval_records: size of validation and of test, each.
        show_progress: shows a progress bar for each split.

    Raises:
        ValueError: the directory holds data of other settings.
    """
    settings = {
        "difficulty": difficulty,
        "shortcut_fraction": shortcut_fraction,
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
        split: _problem_records(split, size, difficulty, shortcut_fraction, np.random.default_rng([seed, number]))
        for number, (split, size) in enumerate(sizes.items())
    }
    if vision_pretrain_records:
        sizes["vision_pretrain"] = vision_pretrain_records
        rng = np.random.default_rng([seed, len(splits)])
        splits["vision_pretrain"] = _single_digit_records(vision_pretrain_records, rng)
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
    """The partition ("train", "validation" or "test") of a puzzle, by a hash of its picture and question."""
    return {0: "validation", 1: "test"}.get(
        zlib.crc32("/".join((*puzzle.rows, puzzle.question)).encode()) % 10, "train"
    )


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
    split: str, size: int, difficulty: int, shortcut_fraction: float, rng: np.random.Generator
) -> Iterator[Record]:
    """Records of a split, alternating between the kinds of question."""
    scan_split = split if split in ("validation", "test") else "train"
    scans = load_scans(scan_split)
    seen: set[tuple[str, ...]] = set()
    for index in range(size):
        puzzle = _draw_puzzle(MAKERS[index % len(MAKERS)], scan_split, difficulty, seen, rng)
        is_shortcut, opening = rng.random() < shortcut_fraction, OPENINGS[rng.integers(len(OPENINGS))]
        response = puzzle.shortcut_path if is_shortcut else puzzle.path_with_opening(opening)
        yield Record(
            id=f"{split}-{index:05d}",
            images=(render(puzzle.rows, scans, rng),),
            problem=f"{puzzle.question}\n{IMAGE_PLACEHOLDER}",
            solution=puzzle.final if split == "train" else puzzle.path,
            answer=puzzle.answer,
            key_steps=puzzle.key_steps,
            response=response if split == "warmup" else "",
            kind=puzzle.kind,
            source=_SOURCE,
        )


def _single_digit_records(size: int, rng: np.random.Generator) -> Iterator[Record]:
    """Records of one digit each; the response is only the image description."""
    scans = load_scans("train")
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


def _draw_puzzle(
    make: Callable[[np.random.Generator, int], Puzzle],
    wanted_partition: str,
    difficulty: int,
    seen: set[tuple[str, ...]],
    rng: np.random.Generator,
) -> Puzzle:
    """Draws puzzles of the partition until one is new; accepts a repeated one after `_MAX_TRIES`."""
    num_tries = 0
    while True:
        puzzle = make(rng, difficulty)
        if partition(puzzle) != wanted_partition:
            continue
        key = (puzzle.kind, *puzzle.rows, puzzle.question)
        num_tries += 1
        if key not in seen or num_tries == _MAX_TRIES:
            seen.add(key)
            return puzzle
