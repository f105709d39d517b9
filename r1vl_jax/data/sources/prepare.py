"""Prepares a data set of files once: records on disk, kept by content, with an account of what became of each row."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from r1vl_jax.config.settings import KEY_STEPS
from r1vl_jax.data.records import Record, UnusableRecord, hash_files, write_splits
from r1vl_jax.data.sources.account import Account
from r1vl_jax.data.sources.files import find_files
from r1vl_jax.data.sources.preparation import FROM_FILE, Part, Preparation, split_parts, valid_records

# (iterable, name, length) -> the same iterable, whose progress is shown.
Track = Callable[[Iterable[Any], str, int], Iterable[Any]]

_SUMMARY, _DROPPED = "summary.json", "dropped.txt"
_VERSION = 7  # of what rows become: a new one prepares again


@dataclass(frozen=True)
class Prepared:
    """Prepared data.

    Attributes:
        directory: holds the splits.
        summary: what was kept, dropped and changed, in lines.
    """

    directory: Path
    summary: tuple[str, ...]


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
    if preparation.key_steps not in KEY_STEPS and not Path(preparation.key_steps).is_file():
        raise FileNotFoundError(f"data.key_steps={preparation.key_steps!r}: no such file")
    cache.mkdir(parents=True, exist_ok=True)
    directory = cache / f"{preparation.stem}-{_digest(preparation, files, cache)[:12]}"
    if not _is_finished(directory):
        # Beside the others, so that records and account appear at once, by one renaming.
        with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=cache) as unfinished:
            written = Path(unfinished) / "records"
            _write(preparation, files, written, track=track or (lambda rows, name, total: rows))
            _publish(written, directory)
    return Prepared(directory, tuple(json.loads((directory / _SUMMARY).read_text("utf-8"))))


def _is_finished(directory: Path) -> bool:
    return (directory / _SUMMARY).is_file()


def _publish(written: Path, directory: Path) -> None:
    if directory.exists() and not _is_finished(directory):
        shutil.rmtree(directory)
    try:
        written.rename(directory)
    except OSError:  # another run prepared the same meanwhile
        if not _is_finished(directory):
            raise


def _digest(preparation: Preparation, files: Mapping[str, Sequence[Path]], cache: Path) -> str:
    source = Path(preparation.source)
    root = source.parent if source.is_file() else source
    by_name = {path.relative_to(root).as_posix(): path for paths in files.values() for path in paths}
    content = hash_files(by_name, cache / f"{preparation.stem}-files.json")
    settings = asdict(preparation) | {"source": preparation.stem, "images": str(preparation.root)}
    if preparation.key_steps not in KEY_STEPS:
        settings["key_steps"] = hashlib.sha256(Path(preparation.key_steps).read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps([_VERSION, content, settings]).encode()).hexdigest()


def _write(preparation: Preparation, files: Mapping[str, Sequence[Path]], directory: Path, *, track: Track) -> None:
    parts, account = list(split_parts(preparation, files)), Account()
    records = {part.split: _records(part, account, track) for part in parts}
    try:
        dropped = write_splits(directory, records, settings={"preparation": json.dumps(asdict(preparation))})
    except ModuleNotFoundError as error:  # what decodes videos
        raise ValueError(f"{preparation.source}: {error}") from error
    except ValueError as error:
        reasons = [f"\n  {part.split}: {reason}" for part in parts for reason in account.reasons(part.split)]
        raise ValueError(f"{preparation.source}: {error}{''.join(reasons)}") from error
    for line in dropped:
        place, _, reason = line.partition(": ")
        split, _, name = place.partition(" ")
        account.drop(split, name, reason)
    layouts = [f"{part.split}: layout {part.reader.layout}" for part in parts if part.split == part.files_split]
    lines = list(account.lines())
    if preparation.key_steps not in KEY_STEPS and not any(FROM_FILE in line for line in lines):
        lines.append(f"{preparation.key_steps} has key steps of none of these records: are they of other data?")
    summary = [*layouts, *lines]
    (directory / _DROPPED).write_text("".join(f"{line}\n" for line in account.dropped()), "utf-8")
    (directory / _SUMMARY).write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _records(part: Part, account: Account, track: Track) -> Iterator[Record]:
    def drop(error: UnusableRecord) -> None:
        account.row(part.split)
        account.drop(part.split, error.name, error.reason)

    rows = track(part.rows(), f"preparing {part.split}", part.num_rows or 0)
    for record, notes in valid_records(part, rows, set(), drop):
        account.row(part.split)
        account.note(part.split, record.id, notes)
        yield record
