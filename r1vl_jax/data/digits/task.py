"""The embedded task: reading handwritten digits and reasoning about them, from data that ships with scikit-learn.

Neither scans nor problems are shared between the training splits (`vision_pretrain`, `warmup`, `train`), `validation`
and `test`.
"""

import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from r1vl_jax.data.digits.puzzles import MAKERS, OPENINGS, Puzzle, described_digits
from r1vl_jax.data.digits.scans import draw, load_scans
from r1vl_jax.data.records import IMAGE_PLACEHOLDER, Record, read_settings, write_splits
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
):
    """Writes the splits vision_pretrain, warmup, train, validation and test, unless they are there already.

    Records of `vision_pretrain` show one digit and name it; those of `warmup` have a response to imitate, in the words
    of several annotators; those of `train` none and nothing that shows the way; those of `validation` and `test` keep
    the reference path as their solution, by which reading is measured.

    Args:
        difficulty: 1 to 3; more digits, more operators.
        shortcut_fraction: of the records of `warmup`, how many imitate somebody who states the result at once, 0 to 1.
        eval_records: of validation and of test, each.

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
        split: _records(split, size, difficulty, shortcut_fraction, np.random.default_rng([seed, number]))
        for number, (split, size) in enumerate(sizes.items())
    }
    if vision_pretrain_records:
        splits["vision_pretrain"] = _readings(vision_pretrain_records, np.random.default_rng([seed, len(sizes)]))
    write_splits(directory, splits, settings=settings)


def texts(records: Iterable[Record]) -> Iterator[str]:
    """What a tokenizer of this task is trained on: who speaks in a turn, problems and the responses to imitate."""
    for record in records:
        yield "user\nassistant\n"
        yield record.problem.replace(IMAGE_PLACEHOLDER, "")
        yield record.response


def reading_accuracy(completion: str, record: Record) -> tuple[int, int]:
    """How many digits of the picture the image description names right, by position, and how many there are.

    Args:
        record: of validation or test; its solution tells what the picture shows.
    """
    wanted, got = described_digits(record.solution), described_digits(completion)
    return sum(a == b for a, b in zip(wanted, got, strict=False)), len(wanted)


def partition(puzzle: Puzzle) -> str:
    """The split of scans and problems that a puzzle belongs to, by what its picture shows and what is asked."""
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


def _records(
    split: str, size: int, difficulty: int, shortcut_fraction: float, rng: np.random.Generator
) -> Iterator[Record]:
    """Records of a split, the kinds by turns."""
    home = split if split in ("validation", "test") else "train"
    scans = load_scans(home)
    seen: set[tuple[str, ...]] = set()
    for index in range(size):
        puzzle = _draw_puzzle(MAKERS[index % len(MAKERS)], home, difficulty, seen, rng)
        is_hasty, opening = rng.random() < shortcut_fraction, OPENINGS[rng.integers(len(OPENINGS))]
        shown = puzzle.hasty_path if is_hasty else puzzle.path_opened_by(opening)
        yield Record(
            id=f"{split}-{index:05d}",
            images=(draw(puzzle.rows, scans, rng),),
            problem=f"{puzzle.question}\n{IMAGE_PLACEHOLDER}",
            solution=puzzle.final if split == "train" else puzzle.path,
            answer=puzzle.answer,
            key_steps=puzzle.key_steps,
            response=shown if split == "warmup" else "",
            kind=puzzle.kind,
            source=_SOURCE,
        )


def _readings(size: int, rng: np.random.Generator) -> Iterator[Record]:
    """Single digits; the response is the image description alone."""
    scans = load_scans("train")
    for index in range(size):
        digit = str(rng.integers(10))
        yield Record(
            id=f"vision_pretrain-{index:05d}",
            images=(draw([digit], scans, rng),),
            problem=f"Which digit is it?\n{IMAGE_PLACEHOLDER}",
            solution=digit,
            answer=digit,
            key_steps=(),
            response=f"{DESCRIPTION}\n{digit}",
            kind="reading",
            source=_SOURCE,
        )


def _draw_puzzle(
    make: Callable[[np.random.Generator, int], Puzzle],
    home: str,
    difficulty: int,
    seen: set[tuple[str, ...]],
    rng: np.random.Generator,
) -> Puzzle:
    """A puzzle of the right partition; a new one, as long as new ones are found in some tries."""
    num_tries = 0
    while True:
        puzzle = make(rng, difficulty)
        if partition(puzzle) != home:
            continue
        key = (puzzle.kind, *puzzle.rows, puzzle.question)
        num_tries += 1
        if key not in seen or num_tries == _MAX_TRIES:
            seen.add(key)
            return puzzle
