"""A file of key steps: a JSON object a line, written while they are found, edited by hand, read by a run.

    {"split": "train", "id": "mulberry/train/0", "by": "rule", "key_steps": [["8 * 6 = 48", "8 times 6 is 48"]],
     "reasons": {"8 * 6 = 48": "a computation with its value"}, "left_out": {}, "digest": "5c02a9d1e3f4"}

`id` and `key_steps` are enough. A line with a `digest` is only of the record whose texts have it.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from r1vl_jax.data.key_steps.found import KeySteps
from r1vl_jax.data.record import Record
from r1vl_jax.rewards.key_steps import parse_key_steps

_BEGIN = '{"split": "'  # of a line that `append` writes


@dataclass(frozen=True)
class Line:
    """The key steps of one record.

    Attributes:
        number: of the line, from 1.
        split, id: of the record; a line without a split is of the record in any.
        by: what found them; "" if the line does not say.
        digest: of the record's texts; "" if the line does not say.
    """

    number: int
    split: str
    id: str
    by: str
    digest: str
    found: KeySteps


class KeyStepsFile:
    """The lines of a file, found by split and id.

    Args:
        path: of the file; an absent one is empty.

    Raises:
        ValueError: a line cannot be read, or two are of one record; says which, and why. A last line that was not
            written to its end is left out.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lines: dict[tuple[str, str], Line] = {}
        for line in _read(path) if path.exists() else ():
            if earlier := self._lines.get(key := (line.split, line.id)):
                raise ValueError(f"{path}: lines {earlier.number} and {line.number} are both of record {line.id!r}")
            self._lines[key] = line

    def __len__(self) -> int:
        return len(self._lines)

    def find(self, split: str, record: Record, row: int | None = None) -> Line | None:
        """Of a record of a split; with its row, by the id that the row states.

        Of several rows that state one id all but the first have `ID#ROW` in the file.
        """
        names = (record.id,) if row is None else (f"{record.id}#{row}", record.id)
        found = (self._lines.get((each, name)) for name in names for each in (split, ""))
        return next((line for line in found if line and line.digest in ("", _digest(record))), None)

    def makers(self) -> set[str]:
        """What found the key steps in it."""
        return {line.by for line in self._lines.values()}


def append(file: IO[str], found: Iterable[tuple[str, Record, KeySteps]], *, by: str) -> None:
    """Writes the key steps of records, each with its split, and hands them to the operating system."""
    for split, record, key_steps in found:
        line = {"split": split, "id": record.id, "by": by, "key_steps": key_steps.groups}
        line |= {"reasons": key_steps.reasons, "left_out": key_steps.left_out, "digest": _digest(record)}
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
    file.flush()


@contextlib.contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Keeps other programs from writing a file, by a lock beside it.

    Raises:
        ValueError: another program writes it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_suffix(".lock"))
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{path}: another program is writing it; wait for its end, or name another --out") from None
    with held:
        yield


def open_to_append(path: Path) -> IO[str]:
    """The file, ready for a further line: what is left of one that was not written to its end is cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        file.seek(0)
        content = file.read()
        num_whole = content.rfind(b"\n") + 1
        last = content[num_whole:].decode("utf-8", "replace")
        if _is_cut(last):
            file.truncate(num_whole)
        elif last:  # as an editor may leave it
            file.write(b"\n")
    return path.open("a", encoding="utf-8")


def _digest(record: Record) -> str:
    texts = (record.system, *record.texts(), record.solution, record.response, record.answer)
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _read(path: Path) -> Iterator[Line]:
    try:
        lines = path.read_text("utf-8-sig", errors="strict").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as a file of key steps: {error}") from error
    for number, text in enumerate(lines, start=1):
        if not text.strip() or (number == len(lines) and _is_cut(text)):
            continue
        try:
            yield _parse(json.loads(text), number)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: line {number}: {error}") from None


def _parse(line: Any, number: int) -> Line:
    if not isinstance(line, dict) or not isinstance(line.get("id"), str) or "key_steps" not in line:
        raise ValueError(f"expected an object with `id`, a text, and `key_steps`, got {str(line)[:60]}")
    reasons, left_out = (value if isinstance(value := line.get(name), dict) else {} for name in ("reasons", "left_out"))
    found = KeySteps(parse_key_steps(line["key_steps"]), reasons, left_out)
    split, by, digest = (str(line.get(name) or "") for name in ("split", "by", "digest"))
    return Line(number, split, line["id"], by, digest, found)


def _is_cut(last: str) -> bool:
    """Whether a last line without an end is one that `append` began."""
    try:
        json.loads(last)
    except (ValueError, RecursionError):
        return last.startswith(_BEGIN[: len(last)]) and last != ""
    return False
