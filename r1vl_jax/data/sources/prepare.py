"""Prepares a data set of files once: records on disk, kept by content, with an account of what became of each row."""

import contextlib
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from r1vl_jax.data.records import Record, UnusableRecord, hash_files, write_splits
from r1vl_jax.data.sources.account import Account
from r1vl_jax.data.sources.files import TRAIN, Row, count_rows, find_files, read_rows
from r1vl_jax.data.sources.layouts import parse_columns, recognise
from r1vl_jax.data.sources.rows import RowReader

# (iterable, name, length) -> the same iterable, whose progress is shown.
Track = Callable[[Iterable[Any], str, int], Iterable[Any]]

_SUMMARY, _DROPPED = "summary.json", "dropped.txt"
_VERSION = 1  # of what rows become: a new one prepares again
_NUM_SAMPLED = 100  # rows of a file that the layout is recognised by


@dataclass(frozen=True)
class Preparation:
    """How files become records.

    Attributes:
        source: a file, or a directory of files.
        name: of the data set, part of ids; "" is the name of `source`.
        images: root of relative paths of pictures; "" is the directory of `source`.
        layout: a name in `layouts.LAYOUTS`, or "" to recognise it.
        columns: "FIELD=COLUMN,...": columns that have another name than in the layout.
        validation_size, test_size: training records that are held out: a share if below 1, or else their number.
        split_seed: decides which.
    """

    source: str
    name: str = ""
    images: str = ""
    layout: str = ""
    columns: str = ""
    validation_size: float = 0.0
    test_size: float = 0.0
    split_seed: int = 0

    @property
    def root(self) -> Path:
        """Of relative paths of pictures."""
        source = Path(self.source)
        return Path(self.images or (source.parent if source.is_file() else source)).expanduser()

    @property
    def stem(self) -> str:
        """The data set's name without directories and suffix."""
        name = Path(self.name or os.path.abspath(self.source)).name
        return re.sub(r"\W+", "-", name.split(".")[0]).strip("-") or "data"

    def reader(self, files: Sequence[Path]) -> RowReader:
        """The reader of the rows of files, which are of one layout.

        Raises:
            ValueError: their layout is not recognised, or ambiguous.
        """
        columns = parse_columns(self.columns)
        rows = (row for path in files for row in itertools.islice(read_rows(path), _NUM_SAMPLED))
        try:
            layout = self.layout or recognise(rows, columns)
        except ValueError as error:
            raise ValueError(f"{self.source}: {error}") from error
        return RowReader(layout, columns, self.root, self.stem)


@dataclass(frozen=True)
class Prepared:
    """Prepared data.

    Attributes:
        directory: holds the splits.
        summary: what was kept, dropped and changed, in lines.
    """

    directory: Path
    summary: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """The rows of some files that make a split.

    Attributes:
        files_split: the split that the files are of, which rows are numbered in.
        num_rows: of all files; None if not counted.
        numbers: of the rows; None for all.
    """

    split: str
    files_split: str
    files: Sequence[Path]
    reader: RowReader
    num_rows: int | None = None
    numbers: frozenset[int] | None = None

    def rows(self) -> Iterator[tuple[int, Row]]:
        rows = enumerate(itertools.chain.from_iterable(read_rows(path) for path in self.files))
        return ((number, row) for number, row in rows if self.numbers is None or number in self.numbers)


def prepare(preparation: Preparation, cache: Path, *, track: Track | None = None) -> Prepared:
    """The prepared data; those of an earlier call where the same files were to be prepared in the same way.

    Pictures are read one at a time. Those in files of their own do not decide whether data are the same.

    Args:
        cache: a directory for all prepared data; is made.
        track: shows the progress of an iterable, given its name and length.

    Raises:
        FileNotFoundError, ValueError: the source is not there, cannot be read, or a split has no usable record.
    """
    files = find_files(preparation.source)
    cache.mkdir(parents=True, exist_ok=True)
    directory = cache / f"{preparation.stem}-{_digest(preparation, files, cache)[:12]}"
    if not directory.exists():
        _write(preparation, files, directory, track=track or (lambda rows, name, total: rows))
    summary: list[str] = []
    with contextlib.suppress(OSError):  # whoever wrote the records ended before it wrote this
        summary = json.loads((directory / _SUMMARY).read_text("utf-8"))
    return Prepared(directory, tuple(summary))


def _digest(preparation: Preparation, files: Mapping[str, Sequence[Path]], cache: Path) -> str:
    source = Path(preparation.source)
    root = source.parent if source.is_file() else source
    by_name = {path.relative_to(root).as_posix(): path for paths in files.values() for path in paths}
    content = hash_files(by_name, cache / f"{preparation.stem}-files.json")
    settings = asdict(preparation) | {"source": preparation.stem, "images": str(preparation.root)}
    return hashlib.sha256(json.dumps([_VERSION, content, settings]).encode()).hexdigest()


def _write(preparation: Preparation, files: Mapping[str, Sequence[Path]], directory: Path, *, track: Track) -> None:
    parts, account = list(_parts(preparation, files)), Account()
    records = {part.split: _records(part, account, track) for part in parts}
    try:
        dropped = write_splits(directory, records, settings={"preparation": json.dumps(asdict(preparation))})
    except FileExistsError:  # another run prepared the same meanwhile
        return
    except ValueError as error:
        reasons = [f"\n  {part.split}: {reason}" for part in parts for reason in account.reasons(part.split)]
        raise ValueError(f"{preparation.source}: {error}{''.join(reasons)}") from error
    for line in dropped:
        place, _, reason = line.partition(": ")
        split, _, name = place.partition(" ")
        account.drop(split, name, reason)
    layouts = [f"{part.split}: layout {part.reader.layout}" for part in parts if part.split == part.files_split]
    summary = [*layouts, *account.lines()]
    (directory / _DROPPED).write_text("".join(f"{line}\n" for line in account.dropped()), "utf-8")
    (directory / _SUMMARY).write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _parts(preparation: Preparation, files: Mapping[str, Sequence[Path]]) -> Iterator[Part]:
    """The splits: those that files are of, and those held out of the training records."""
    sizes = {"validation": preparation.validation_size, "test": preparation.test_size}
    sizes = {split: size for split, size in sizes.items() if size}
    if twice := [split for split in sizes if split in files]:
        raise ValueError(
            f"data.{twice[0]}_size={sizes[twice[0]]}: {preparation.source} has files of {twice[0]}; unset it"
        )
    if sizes and TRAIN not in files:
        raise ValueError(f"data.{next(iter(sizes))}_size: {preparation.source} has no training records to hold out of")
    for split, paths in files.items():
        num_rows = sum(map(count_rows, paths))
        part = Part(split, split, paths, preparation.reader(paths), num_rows)
        if split != TRAIN or not sizes:
            yield part
            continue
        order = np.random.default_rng(preparation.split_seed).permutation(num_rows).tolist()
        for held_out, size in sizes.items():
            number = round(size * num_rows) if size < 1 else int(size)
            if not 0 < number < len(order):
                raise ValueError(
                    f"data.{held_out}_size={size} holds {number} of {num_rows} records out, and {len(order)} are"
                    " left; at least one must be held out and one be left"
                )
            numbers, order = order[:number], order[number:]
            yield replace(part, split=held_out, numbers=frozenset(numbers), num_rows=number)
        yield replace(part, numbers=frozenset(order), num_rows=len(order))


def _records(part: Part, account: Account, track: Track) -> Iterator[Record]:
    seen: set[str] = set()
    for number, row in track(part.rows(), f"preparing {part.split}", part.num_rows or 0):
        account.row(part.split)
        try:
            record, notes = part.reader.read(row, split=part.files_split, number=number)
        except UnusableRecord as error:
            account.drop(part.split, error.name, error.reason)
            continue
        if record.id in seen:
            record, notes = replace(record, id=f"{record.id}#{number}"), [*notes, "an id of two rows: #ROW was added"]
        seen.add(record.id)
        account.note(part.split, record.id, notes)
        yield record
