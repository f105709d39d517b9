"""Records for which no key steps were found, by name."""

import json
from pathlib import Path

_SUFFIX = ".failed.jsonl"
_NUM_SHOWN = 3


class Failures:
    """A file of them, a JSON object a line, `split`, `id` and `error`; there is none if there are no failures.

    Args:
        path: of the key steps, beside which the file is; one of an earlier call is removed.
    """

    def __init__(self, path: Path):
        self.path = path.with_suffix(_SUFFIX)
        self.path.unlink(missing_ok=True)
        self._num, self._first = 0, list[str]()

    def add(self, split: str, record_id: str, error: str) -> None:
        self._num += 1
        if len(self._first) < _NUM_SHOWN:
            self._first.append(f"    {split} {record_id}: {error}")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"split": split, "id": record_id, "error": error}) + "\n")

    def account(self) -> list[str]:
        """How many there are, and the first of them."""
        if not self._num:
            return []
        return [
            f"{self._num:,} records: failed, and are tried again in the next call; named in {self.path}",
            *self._first,
            *(["    ..."] if self._num > len(self._first) else []),
        ]
