r"""The normal form in which key steps and answers are compared, on UTF-8 bytes.

    `\,` `\;` `\:` `\!` `\ ` `\quad` `\qquad` `~`     become a space
    `$` `\left` `\right`                              go
    runs of white space                               become one space, and go at both ends
    a space beside one of + - * / = < > ( ) { } [ ] , : ^ _ |   goes
    A-Z                                               become a-z

White space is space, tab, newline, vertical tab, form feed and carriage return; only A-Z are folded. Bytes of other
characters, and bytes that are no UTF-8 at all, stay as they are.
"""

import bisect
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

_SPACE = rb"\\[,;:! ]|\\q?quad(?![A-Za-z])|~|\s"
_GONE = rb"\$|\\(?:left|right)(?![A-Za-z])"
# All that is dropped or becomes a space between two bytes that stay; the group says whether there is a space in it.
_GAP = re.compile(rb"(?:(?:" + _GONE + rb")|(" + _SPACE + rb"))+")
_TIGHT = frozenset(b"+-*/=<>(){}[],:^_|")


@dataclass(frozen=True)
class Searchable:
    """A text made of pieces of another, and where each piece came from.

    Attributes:
        data: the text to search in.
        starts: where each piece begins in `data`, ascending.
        origins: where it began in the original.
    """

    data: bytes
    starts: list[int]
    origins: list[int]

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """The span of the original that became `data[start:end]`; an empty one stands at 0."""
        if start == end:
            return 0, 0
        return self._origin_of_byte(start), self._origin_of_byte(end - 1) + 1

    def _origin_of_byte(self, index: int) -> int:
        piece = bisect.bisect_right(self.starts, index) - 1
        return self.origins[piece] + index - self.starts[piece]


def join_pieces(pieces: list[tuple[bytes, int]]) -> Searchable:
    """Joins pieces, each given with its place in the original."""
    starts, length = [], 0
    for piece, _ in pieces:
        starts.append(length)
        length += len(piece)
    return Searchable(b"".join(piece for piece, _ in pieces), starts, [origin for _, origin in pieces])


def normalise(text: bytes) -> Searchable:
    """The normal form of a text, with the way back to the text."""
    pieces, position = [], 0
    for gap in _GAP.finditer(text):
        pieces.append((text[position : gap.start()].lower(), position))
        if gap[1] is not None and _keeps_space(text, *gap.span()):
            pieces.append((b" ", gap.start()))
        position = gap.end()
    pieces.append((text[position:].lower(), position))
    return join_pieces([piece for piece in pieces if piece[0]])


@functools.lru_cache(maxsize=8_192)
def normal_form(text: bytes) -> bytes:
    """The normal form alone; remembered, since the spellings of a record come back with each of its completions."""
    return normalise(text).data


def occurrences(text: bytes, spelling: bytes) -> Iterator[tuple[int, int]]:
    """Spans of `spelling`, which is not empty, in `text`; they may overlap."""
    start = text.find(spelling)
    while start >= 0:
        yield start, start + len(spelling)
        start = text.find(spelling, start + 1)


def whole_occurrences(text: bytes, spelling: bytes) -> Iterator[tuple[int, int]]:
    """Those whose ends cut neither a run of letters nor a number; both texts in normal form. None of an empty one."""
    if spelling:
        for start, end in occurrences(text, spelling):
            if not _cuts(text, start) and not _cuts(text, end):
                yield start, end


def _keeps_space(text: bytes, start: int, end: int) -> bool:
    """Whether a gap with a space in it, text[start:end], separates two bytes that need it."""
    return start > 0 and end < len(text) and text[start - 1] not in _TIGHT and text[end] not in _TIGHT


def _cuts(text: bytes, index: int) -> bool:
    """Whether a word or a number goes on across the border before `text[index]`."""
    if not 0 < index < len(text):
        return False
    before, after = text[index - 1 : index], text[index : index + 1]
    return (before.isalpha() and after.isalpha()) or (_is_in_number(text, index - 1) and _is_in_number(text, index))


def _is_in_number(text: bytes, index: int) -> bool:
    """A digit, or a point with a digit behind it."""
    return text[index : index + 1].isdigit() or (text[index] == ord(".") and text[index + 1 : index + 2].isdigit())
