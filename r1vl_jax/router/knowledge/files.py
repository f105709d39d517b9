"""Files of documents: which there are, and their rows, one at a time."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv

from r1vl_jax.data.sources import files as data
from r1vl_jax.data.sources.files import Row

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet", ".arrow", ".csv", ".tsv")
_BLOCK_BYTES = 16 << 20  # of a CSV file; a row must fit into one


def find_files(source: Path) -> list[Path]:
    """A file, or those of a directory and below, by name.

    Raises:
        FileNotFoundError: nothing is there, or no file that can be read.
        ValueError: the file is of another kind.
    """
    if source.is_file():
        if not source.name.endswith(_SUFFIXES):
            raise ValueError(f"{source}: expected a file that ends in {', '.join(_SUFFIXES)}")
        return [source]
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: no such file or directory")
    files = sorted(path for path in source.rglob("*") if _is_data(path, source))
    if not files:
        raise FileNotFoundError(f"{source}: no data here; expected files that end in {', '.join(_SUFFIXES)}")
    return files


def describe(files: Sequence[Path]) -> str:
    """A digest of names, sizes and times of files, which tells whether they are the same as before."""
    facts = [(os.path.abspath(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files]
    return hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def count_rows(path: Path) -> int:
    """About how many rows a file has: lines, where counting rows would mean to parse them."""
    if path.suffix not in (".jsonl", *_SEPARATORS):
        return data.count_rows(path)
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK_BYTES), b""))


def iterate_rows(path: Path, separator: str = "") -> Iterator[Row]:
    """The rows of a file, each read when it is asked for; cells of CSV are texts.

    Args:
        separator: of columns in CSV; by default a comma, in TSV a tab.

    Raises:
        ValueError: the file is not what its name says; names it, and says why.
    """
    if path.suffix in _SEPARATORS:
        yield from _read_csv(path, separator or _SEPARATORS[path.suffix])
    else:
        yield from data.read_rows(path)


def _read_csv(path: Path, separator: str) -> Iterator[Row]:
    try:
        with _open_csv(path, separator, {}) as reader:
            names = reader.schema.names
        if len(set(names)) < len(names):
            raise ValueError(f"columns of one name: {', '.join(sorted({n for n in names if names.count(n) > 1}))}")
        with _open_csv(path, separator, dict.fromkeys(names, pa.string())) as reader:
            for batch in reader:
                yield from batch.to_pylist()
    except (pa.ArrowException, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _open_csv(path: Path, separator: str, types: dict[str, Any]) -> Any:
    return csv.open_csv(
        str(path),
        read_options=csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False),
        parse_options=csv.ParseOptions(delimiter=separator, newlines_in_values=True),
        convert_options=csv.ConvertOptions(column_types=types),
    )


def _is_data(path: Path, source: Path) -> bool:
    is_hidden = any(part.startswith(".") for part in path.relative_to(source).parts)
    return path.name.endswith(_SUFFIXES) and not is_hidden and path.is_file()
