"""Finds the key steps of all records of a data set's files, a batch at a time, and writes each batch as it is found."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

from r1vl_jax.data.key_steps.failures import Failures
from r1vl_jax.data.key_steps.file import KeyStepsFile, append, open_to_append
from r1vl_jax.data.key_steps.found import KeySteps
from r1vl_jax.data.key_steps.rule import explain_record
from r1vl_jax.data.record import Record, UnusableRecord
from r1vl_jax.data.sources.preparation import Part, valid_records

# records -> the key steps of each, or why there are none yet
Find = Callable[[Sequence[Record]], Sequence[KeySteps | str]]
Item = tuple[str, Record]  # with the split

_BATCH = 256  # records, after which their lines are written
_CHUNK = 16  # records that a process gets at a time


@contextlib.contextmanager
def by_rule(num_processes: int = os.cpu_count() or 1) -> Iterator[Find]:
    """Finds key steps by rule in several processes."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, context, initializer=_ignore_interrupt) as pool:

        def find(records: Sequence[Record]) -> list[KeySteps]:
            try:
                return list(pool.map(explain_record, map(_without_pictures, records), chunksize=_CHUNK))
            except BrokenProcessPool as error:
                raise ValueError("a process was killed, perhaps since memory ran out; start again to go on") from error

        try:
            yield find
        finally:
            pool.shutdown(cancel_futures=True)


def _ignore_interrupt() -> None:
    """Ctrl-C is for the program, which ends its processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _without_pictures(record: Record) -> Record:
    return replace(record, images=(), videos=())


def read_records(parts: Sequence[Part], *, limit: int = 0, drop: Callable[[UnusableRecord], None]) -> Iterator[Item]:
    """The valid records of every part, without their pictures, which nothing here needs.

    Args:
        limit: the first so many of each; 0 for all.
        drop: as of `valid_records`.
    """
    for part in parts:
        without = replace(part, reader=replace(part.reader, reads_pictures=False))
        records = valid_records(without, part.rows(), set(), drop)
        yield from ((part.split, record) for record, _ in itertools.islice(records, limit or None))


def read_spread(parts: Sequence[Part], num_records: int, *, limit: int = 0) -> Iterator[tuple[str, Record, int]]:
    """Records from places that are spread evenly over all rows, with their pictures, each with its split and row.

    Args:
        limit: the first so many rows of each part; 0 for all.
    """
    sizes = [min(part.num_rows or 0, limit or sys.maxsize) for part in parts]
    total = sum(sizes)
    places = {index * total // num_records for index in range(num_records)}
    starts = itertools.accumulate(sizes, initial=0)
    for part, start, size in zip(parts, starts, sizes, strict=False):
        numbers = range(part.num_rows or 0) if part.numbers is None else sorted(part.numbers)
        taken = frozenset(numbers[place - start] for place in places if start <= place < start + size)
        for number, row in replace(part, numbers=taken).rows():
            records = valid_records(part, [(number, row)], set(), lambda error: None)
            yield from ((part.split, record, number) for record, _ in records)


def find_key_steps(
    items: Iterator[Item], path: Path, find: Find, *, by: str, advance: Callable[[int], None]
) -> list[str]:
    """Adds a line to the file for each record without one and without key steps of its own; returns an account.

    Records that fail are named in a file beside it.

    Args:
        by: what finds them.
        advance: is told after each batch how many records were read.

    Raises:
        ValueError: the file cannot be read, or has key steps that something else found.
    """
    known = KeyStepsFile(path)
    if others := known.makers() - {by, ""}:
        raise ValueError(f"{path}: has key steps by {', '.join(sorted(others))}; name another --out for those by {by}")
    counts: Counter[str] = Counter()
    failures = Failures(path)
    num_read = 0
    with open_to_append(path) as file:
        for batch in _batches(items):
            num_read += len(batch)
            new = [item for item in batch if not _is_done(item, known, counts)]
            found = zip(new, find([record for _, record in new]) if new else (), strict=True)
            append(file, _successes(found, counts, failures), by=by)
            advance(num_read)
    return [*(f"{count:,} records: {what}" for what, count in counts.most_common()), *failures.account()]


def _batches(items: Iterator[Item]) -> Iterator[list[Item]]:
    """Each is read while the one before is worked on."""
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(lambda: list(itertools.islice(items, _BATCH)))
        while batch := ahead.result():
            ahead = reader.submit(lambda: list(itertools.islice(items, _BATCH)))
            yield batch


def _is_done(item: Item, known: KeyStepsFile, counts: Counter[str]) -> bool:
    split, record = item
    if known.find(split, record) is not None:
        counts["in the file already"] += 1
        return True
    if record.key_steps:
        counts["with key steps of their own"] += 1
        return True
    return False


def _successes(
    found: Iterator[tuple[Item, KeySteps | str]], counts: Counter[str], failures: Failures
) -> Iterator[tuple[str, Record, KeySteps]]:
    for (split, record), key_steps in found:
        if isinstance(key_steps, str):
            failures.add(split, record.id, key_steps)
        else:
            counts["with key steps" if key_steps.groups else "without a key step in them"] += 1
            yield split, record, key_steps
