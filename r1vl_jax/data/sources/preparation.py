"""How files become splits: which files and rows are of which split, and who reads them."""

import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from r1vl_jax.config.data_source import preparation_errors
from r1vl_jax.config.settings import KEY_STEPS
from r1vl_jax.data.key_steps.file import KeyStepsFile
from r1vl_jax.data.record import Record, UnusableRecord, check
from r1vl_jax.data.sources.files import TRAIN, Row, count_rows, read_rows
from r1vl_jax.data.sources.layouts import parse_columns, recognise
from r1vl_jax.data.sources.rows import NO_KEY_STEPS, RowReader
from r1vl_jax.data.sources.videos import MAX_FRAMES

FROM_FILE = "key steps of data.key_steps"  # a note
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
        key_steps: of rows that have none: "rule" takes them from the solution or response, "none" does not. Or a file
            of key steps, which come before those of the rows.
        max_frames: of a video; of more, so many are taken at equal distances.

    Raises:
        ValueError: a setting that no configuration may have either, named as there, `data.layout`.
    """

    source: str
    name: str = ""
    images: str = ""
    layout: str = ""
    columns: str = ""
    validation_size: float = 0.0
    test_size: float = 0.0
    split_seed: int = 0
    key_steps: str = "rule"
    max_frames: int = MAX_FRAMES

    def __post_init__(self) -> None:
        if errors := list(preparation_errors(self)):
            raise ValueError("\n".join(errors))

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

    def key_steps_file(self) -> KeyStepsFile | None:
        """Key steps of a file, if there are to be any.

        Raises:
            ValueError: it cannot be read.
        """
        if self.key_steps in KEY_STEPS:
            return None
        return KeyStepsFile(Path(self.key_steps))

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
        return RowReader(layout, columns, self.root, self.stem, self.key_steps == "rule", self.max_frames)


@dataclass(frozen=True)
class Part:
    """The rows of some files that make a split.

    Attributes:
        files_split: the split that the files are of, which rows are numbered in.
        num_rows: of all files; None if not counted.
        numbers: of the rows; None for all.
        key_steps: of records, in place of those that their rows have.
    """

    split: str
    files_split: str
    files: Sequence[Path]
    reader: RowReader
    num_rows: int | None = None
    numbers: frozenset[int] | None = None
    key_steps: KeyStepsFile | None = None

    def rows(self) -> Iterator[tuple[int, Row]]:
        rows = enumerate(itertools.chain.from_iterable(read_rows(path) for path in self.files))
        return ((number, row) for number, row in rows if self.numbers is None or number in self.numbers)


def split_parts(preparation: Preparation, files: Mapping[str, Sequence[Path]]) -> Iterator[Part]:
    """The splits: those that files are of, and those held out of the training records."""
    sizes = {"validation": preparation.validation_size, "test": preparation.test_size}
    sizes = {split: size for split, size in sizes.items() if size}
    if twice := [split for split in sizes if split in files]:
        raise ValueError(
            f"data.{twice[0]}_size={sizes[twice[0]]}: {preparation.source} has files of {twice[0]}; unset it"
        )
    if sizes and TRAIN not in files:
        raise ValueError(f"data.{next(iter(sizes))}_size: {preparation.source} has no training records to hold out of")
    key_steps = preparation.key_steps_file()
    for split, paths in files.items():
        num_rows = sum(map(count_rows, paths))
        part = Part(split, split, paths, preparation.reader(paths), num_rows, key_steps=key_steps)
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


def valid_records(
    part: Part, rows: Iterable[tuple[int, Row]], taken: set[str], drop: Callable[[UnusableRecord], None]
) -> Iterator[tuple[Record, list[str]]]:
    """The records of a part, each with an id of its own and what was changed or is absent in it.

    They are valid but for their pictures, which are read and not decoded.

    Args:
        rows: as `Part.rows`.
        taken: ids that no record may have; those of the records are added.
        drop: receives the reason of each row that is left out.
    """
    for number, row in rows:
        try:
            record, notes = _read(part, row, number)
        except UnusableRecord as error:
            drop(error)
            continue
        if record.id in taken:
            record = replace(record, id=_free_id(record.id, number, taken))
            notes = [*notes, "an id of two rows: #ROW was added"]
        taken.add(record.id)
        yield record, notes


def _read(part: Part, row: Row, number: int) -> tuple[Record, list[str]]:
    record, notes = part.reader.read(row, split=part.files_split, number=number)
    if part.key_steps and (line := part.key_steps.find(part.files_split, record, number)):
        record = replace(record, key_steps=line.found.groups)
        notes = [FROM_FILE if record.key_steps else NO_KEY_STEPS, *(note for note in notes if note != NO_KEY_STEPS)]
    try:
        check(record)
    except ValueError as error:
        raise UnusableRecord(record.id, str(error)) from error
    return record, notes


def _free_id(record_id: str, number: int, taken: set[str]) -> str:
    """The id with `#number` behind it, again where another row has that already."""
    while record_id in taken:
        record_id += f"#{number}"
    return record_id
