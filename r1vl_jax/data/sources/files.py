"""Files of a data set: which there are, which split each belongs to, and their rows, one at a time."""

import gzip
import io
import itertools
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

Row = Mapping[str, Any]

TRAIN = "train"
SPLITS = ("vision_pretrain", "warmup", TRAIN, "validation", "test")
_SPLIT_OF_WORD = {
    **{split: split for split in SPLITS},
    "training": TRAIN,
    **dict.fromkeys(("valid", "val", "dev"), "validation"),
    "testmini": "test",
}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_WORD = re.compile(r"vision_pretrain|[a-z]+")
_SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".parquet", ".arrow")
_PICKLED = (".pkl", ".pickle", ".pt", ".pth", ".npy", ".npz", ".joblib")
# What stands beside the data: descriptions, and a snapshot's own book-keeping.
_NOT_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "fingerprint.json")
# Names of the one list that an object may hold in place of rows.
_NAMES_OF_ROWS = {"data", "rows", "records", "examples", "annotations", *SPLITS}
_CHUNK = 1 << 20  # characters
_BATCH = 64  # rows of Parquet held at a time, pictures included


def local_source(name: str) -> Path:
    """The file or directory of this name, or else a snapshot of the data set of this name on the Hugging Face hub.

    Raises:
        FileNotFoundError: there is neither.
    """
    path = Path(name).expanduser()
    if path.exists() or not _HUB_NAME.fullmatch(name) or name.endswith(_SUFFIXES):
        return path
    # Imported here because local files do not need the hub client.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, repo_type="dataset"))
    except (OSError, HFValidationError) as error:
        raise FileNotFoundError(
            f"{name}: no such file or directory, and the hub does not give it: {type(error).__name__}"
        ) from error


def find_files(source: str | os.PathLike) -> dict[str, list[Path]]:
    """The files of each split, sorted: those of a directory and below, or one file.

    A file belongs to the split that a word of its name, or of its directories' below the source, names: `train`,
    `validation` (also `val`, `valid`, `dev`), `test` (`testmini`), `warmup`, `vision_pretrain`. Where no name names a
    split, all are `train`.

    Raises:
        FileNotFoundError: nothing is there, or no file that can be read.
        ValueError: a file is pickled or of another kind, or some names name a split and others none.
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or directory")
    if source.is_file():
        _check_kind(source)
        return {_split_of(Path(source.name)) or TRAIN: [source]}
    files = sorted(path for path in source.rglob("*") if _is_data(path, source))
    if not files:
        for path in sorted(source.rglob("*")):
            if path.name.endswith(_PICKLED):
                _check_kind(path)
        raise FileNotFoundError(f"{source}: no data here; expected files that end in {', '.join(_SUFFIXES)}")
    split_of = {path: _split_of(path.relative_to(source)) for path in files}
    unnamed = [str(path.relative_to(source)) for path, split in split_of.items() if split is None]
    if unnamed and len(unnamed) < len(files):
        raise ValueError(
            f"{source}: {', '.join(unnamed[:5])} name no split, and other files do; let every name have one of"
            f" {', '.join(SPLITS)} in it, or move what is not data elsewhere"
        )
    splits: dict[str, list[Path]] = {}
    for path, split in split_of.items():
        splits.setdefault(split or TRAIN, []).append(path)
    return {split: splits[split] for split in SPLITS if split in splits}


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, each read when it is asked for.

    JSON may be a list of objects, one object a line, or an object that holds one list of objects; either may have any
    of these names, and may be compressed.

    A whole number of more digits than Python reads becomes infinity, which no answer may be.

    Raises:
        ValueError: the file is not what its name says, or nested too deep; names the file, and the place in it.
    """
    try:
        if path.suffix == ".parquet":
            yield from _read_parquet(path)
        elif path.suffix == ".arrow":
            yield from _read_arrow(path)
        else:
            with _open_text(path) as file:
                yield from _read_json(file)
    except (pa.ArrowException, ValueError, RecursionError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: {error}") from error


def count_rows(path: Path) -> int:
    """The number of rows of a file.

    Raises:
        ValueError: as `read_rows`.
    """
    if path.suffix == ".parquet":
        try:
            return pq.ParquetFile(path).metadata.num_rows
        except pa.ArrowException as error:
            raise ValueError(f"{path}: {error}") from error
    return sum(1 for _ in read_rows(path))


def _is_data(path: Path, source: Path) -> bool:
    is_hidden = any(part.startswith(".") for part in path.relative_to(source).parts)
    is_named = path.name.endswith(_SUFFIXES) and not path.name.startswith("cache-") and path.name not in _NOT_DATA
    return is_named and not is_hidden and path.is_file()


def _check_kind(path: Path) -> None:
    if path.name.endswith(_PICKLED):
        raise ValueError(f"{path}: pickled files are not read, since reading one may run any program; write Parquet")
    if not path.name.endswith(_SUFFIXES):
        raise ValueError(f"{path}: expected a file that ends in {', '.join(_SUFFIXES)}")


def _split_of(path: Path) -> str | None:
    """The split that the last telling word of a path names: `data/test-00000-of-00001.parquet` is `test`."""
    named = [_SPLIT_OF_WORD[word] for word in _WORD.findall(str(path).lower()) if word in _SPLIT_OF_WORD]
    return named[-1] if named else None


def _open_text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")


def _read_parquet(path: Path) -> Iterator[Row]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_BATCH):
            yield from batch.to_pylist()


def _read_arrow(path: Path) -> Iterator[Row]:
    """What `datasets.save_to_disk` writes: a stream of record batches."""
    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
        for batch in stream:
            for start in range(0, batch.num_rows, _BATCH):
                yield from batch.slice(start, _BATCH).to_pylist()


def _read_json(file: IO[str]) -> Iterator[Row]:
    values = _values(file)
    first = list(itertools.islice(values, 2))
    if len(first) == 1 and isinstance(first[0], dict) and (rows := _held_rows(first[0])) is not None:
        values, first = iter(rows), []
    for number, value in enumerate(itertools.chain(first, values)):
        if not isinstance(value, dict):
            raise ValueError(f"row {number}: expected an object, got {value!r:.60}")
        yield value


def _held_rows(value: Mapping[str, Any]) -> list[Any] | None:
    """The rows of `{"data": [...]}`; None for a row."""
    lists = [rows for name, rows in value.items() if name in _NAMES_OF_ROWS and isinstance(rows, list)]
    return lists[0] if len(lists) == 1 else None


def _values(file: IO[str]) -> Iterator[Any]:
    """The elements of a JSON list, or the values that stand one behind the other; never the whole file at once."""
    decoder, text, size = json.JSONDecoder(parse_int=_parse_int), file.read(_CHUNK), _CHUNK
    start = len(text) - len(text.lstrip())
    is_list, num_values, line = text.startswith("[", start), 0, 1
    position, between = start + is_list, re.compile(r"[\s,]*" if is_list else r"\s*")
    while True:
        position = between.match(text, position).end()  # pyright: ignore[reportOptionalMemberAccess] - matches ""
        if is_list and text.startswith("]", position):
            return
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            more = file.read(size)  # twice as much each time: a long object is not parsed again and again
            if not more and not is_list and position == len(text):
                return
            if not more:
                raise ValueError(
                    f"expected JSON, a list of objects or an object a line; after {num_values} whole rows: {error.msg},"
                    f" at {text[error.pos : error.pos + 40]!r}"
                ) from error
            line += text.count("\n", 0, position)
            text, position, size = text[position:] + more, 0, 2 * size
        except RecursionError:
            line += text.count("\n", 0, position)
            raise ValueError(f"row {num_values}, line {line}: nested too deep to be read; remove the row") from None
        else:
            num_values, size = num_values + 1, _CHUNK
            yield value


def _parse_int(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:  # Python's limit of digits
        return float(digits)
