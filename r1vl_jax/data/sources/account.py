"""An account of what became of each row: kept, dropped and why, changed and how."""

import collections
import re
from collections.abc import Iterator

# What differs between rows of one reason: numbers and quoted values.
_PARTICULARS = re.compile(r"""'[^']*'|"[^"]*"|\d+""")
_MAX_REASONS = 8


class Account:
    """Counts rows by split, and what happened to them by its reason."""

    def __init__(self):
        self._rows: collections.Counter[str] = collections.Counter()
        self._notes: dict[tuple[str, str], list[str]] = {}
        self._dropped: list[tuple[str, str, str]] = []

    def row(self, split: str) -> None:
        """Counts a row that was read."""
        self._rows[split] += 1

    def note(self, split: str, name: str, notes: list[str]) -> None:
        """Keeps what was changed or is absent in a row."""
        self._notes[split, name] = notes

    def drop(self, split: str, name: str, reason: str) -> None:
        """Counts a row that is left out, and forgets its notes."""
        self._dropped.append((split, name, reason))
        self._notes.pop((split, name), None)

    def dropped(self) -> Iterator[str]:
        """One line for each row that was left out: split, name and reason."""
        return (f"{split} {name}: {reason}" for split, name, reason in self._dropped)

    def reasons(self, split: str) -> list[str]:
        """The most frequent reasons for which rows of a split were dropped, each with its count and one example."""
        examples: dict[str, str] = {}
        counts: collections.Counter[str] = collections.Counter()
        for _, name, reason in (each for each in self._dropped if each[0] == split):
            kind = _PARTICULARS.sub("...", reason)
            examples.setdefault(kind, f"{reason} ({name})")
            counts[kind] += 1
        lines = [f"{count:,} x {examples[kind]}" for kind, count in counts.most_common(_MAX_REASONS)]
        return lines + [f"{len(counts) - _MAX_REASONS} further reasons"] * (len(counts) > _MAX_REASONS)

    def lines(self) -> Iterator[str]:
        """The account in words, split by split."""
        for split, num_rows in self._rows.items():
            num_dropped = sum(each[0] == split for each in self._dropped)
            yield f"{split}: {num_rows - num_dropped:,} of {num_rows:,} rows kept, {num_dropped:,} dropped"
            yield from (f"  dropped: {line}" for line in self.reasons(split))
            noted = (note for (noted_split, _), notes in self._notes.items() if noted_split == split for note in notes)
            yield from (f"  {note}: {count:,} records" for note, count in collections.Counter(noted).most_common())
