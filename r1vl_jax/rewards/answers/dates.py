"""Times of day and dates in plain text."""

import re
from dataclasses import dataclass

_MONTHS = "january february march april may june july august september october november december".split()
_MONTH = "|".join(f"{month[:3]}(?:{month[3:]})?" for month in _MONTHS) + "|sept"
_TIME = re.compile(r"(\d{1,3})((?:\s*:\s*\d{1,2}){0,2})\s*(?:([ap])\.?\s?m\.?)?", re.IGNORECASE)
_ORDINAL = r"(\d{1,2})(?:st|nd|rd|th)?"
_NAMED_DATES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?P<month>{_MONTH})\.?\s+{_ORDINAL.replace('(', '(?P<day>', 1)}(?:\s*,\s*|\s+)(?P<year>\d{{4}})",
        rf"(?:the\s+)?{_ORDINAL.replace('(', '(?P<day>', 1)}\s+(?:of\s+)?(?P<month>{_MONTH})\.?,?\s+(?P<year>\d{{4}})",
        rf"(?P<month>{_MONTH})\.?,?\s+(?P<year>\d{{4}})",
        rf"(?P<month>{_MONTH})\.?\s+{_ORDINAL.replace('(', '(?P<day>', 1)}",
        rf"(?:the\s+)?{_ORDINAL.replace('(', '(?P<day>', 1)}\s+(?:of\s+)?(?P<month>{_MONTH})",
    )
]
_YEAR_FIRST = re.compile(r"(\d{4})([-/.])(\d{1,2})\2(\d{1,2})")
_YEAR_LAST = re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4}|\d{2})")


@dataclass(frozen=True)
class Ratio:
    """`3:4`: numbers with colons that are no time, since minutes have two digits."""

    kind = "ratio"
    parts: tuple[int, ...]

    def __str__(self) -> str:
        return ":".join(map(str, self.parts))


@dataclass(frozen=True)
class Time:
    """`1:30`, `1:30 pm`, `3 pm`.

    Attributes:
        parts: hours, minutes, seconds, as many as are written.
        half: "a" or "p"; "" if it is not said.
    """

    kind = "time"
    parts: tuple[int, ...]
    half: str

    def __str__(self) -> str:
        shown = ":".join(f"{part:02}" if index else str(part) for index, part in enumerate(self.parts))
        return shown + (f" {self.half}m" if self.half else "")


@dataclass(frozen=True)
class Date:
    """A date, or a part of one.

    Attributes:
        year, month, day: 0 where it is not written.
        text: a numeric date that can be read in two ways, as it is written; "" for any other.
    """

    kind = "date"
    year: int
    month: int
    day: int
    text: str = ""

    def __str__(self) -> str:
        return self.text or f"{self.year or '????'}-{self.month or '??':02}-{self.day or '??':02}"


def parse_time(text: str) -> Time | Ratio | None:
    """A time, which has a colon or says am or pm; or a ratio."""
    found = _TIME.fullmatch(text)
    if found is None or not (found[2] or found[3]):
        return None
    parts = tuple(int(part) for part in [found[1], *re.findall(r"\d+", found[2])])
    half = (found[3] or "").lower()
    if any(len(digits) != 2 for digits in re.findall(r"\d+", found[2])):
        return None if half else Ratio(parts)
    if half:
        parts += (0,) * (2 - len(parts))  # 3 pm is 3:00 pm
    return Time(parts, half)


def parse_date(text: str) -> Date | None:
    """A date in words (`March 5, 2020`, `5 March`, `Mar 2020`) or in numbers (`2020-03-05`, `13/4/2020`)."""
    for pattern in _NAMED_DATES:
        if found := pattern.fullmatch(text):
            parts = found.groupdict()
            month = next(index for index, name in enumerate(_MONTHS, 1) if name[:3] == parts["month"][:3].lower())
            return Date(int(parts.get("year") or 0), month, int(parts.get("day") or 0))
    if found := _YEAR_FIRST.fullmatch(text):
        return Date(int(found[1]), int(found[3]), int(found[4]))
    if found := _YEAR_LAST.fullmatch(text):
        first, second, year = int(found[1]), int(found[3]), int(found[4])
        if len(found[4]) == 4 and first > 12 >= second:
            return Date(year, second, first)
        if len(found[4]) == 4 and second > 12 >= first:
            return Date(year, first, second)
        return Date(year, first, second, f"{first}{found[2]}{second}{found[2]}{found[4]}")
    return None
