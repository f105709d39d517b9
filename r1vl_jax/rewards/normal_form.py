r"""The normal form in which key steps and answers are compared, on UTF-8 bytes.

    `\,` `\;` `\:` `\!` `\ ` `\quad` `\qquad` `~`     become a space
    `$` `\left` `\right`                              are removed
    runs of white space                               become one space, and are removed at both ends
    a space beside one of + - * / = < > ( ) { } [ ] , : ^ _ |   is removed
    A-Z                                               become a-z

White space is space, tab, newline, vertical tab, form feed and carriage return; only A-Z are case-folded. The bytes of
other characters, and invalid UTF-8, are unchanged.
"""

import bisect
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

_SPACE = rb"\\[,;:! ]|\\q?quad(?![A-Za-z])|~|\s"
_REMOVED = rb"\$|\\(?:left|right)(?![A-Za-z])"
# A run of bytes that are removed or become a space; group 1 is set if it holds a space.
_GAP = re.compile(rb"(?:(?:" + _REMOVED + rb")|(" + _SPACE + rb"))+")
_OPERATORS = frozenset(b"+-*/=<>(){}[],:^_|")


@dataclass(frozen=True)
class MappedText:
    """A text made of pieces of a source text, with the offset mapping back to the source.

    Attributes:
        data: the text to search in.
        piece_starts: where each piece begins in `data`, ascending.
        source_starts: where it begins in the source.
    """

    data: bytes
    piece_starts: list[int]
    source_starts: list[int]

    def source_span(self, start: int, end: int) -> tuple[int, int]:
        """The span of the source that became `data[start:end]`; (0, 0) for an empty span."""
        if start == end:
            return 0, 0
        return self._source_offset(start), self._source_offset(end - 1) + 1

    def _source_offset(self, index: int) -> int:
        piece = bisect.bisect_right(self.piece_starts, index) - 1
        return self.source_starts[piece] + index - self.piece_starts[piece]


def join_pieces(pieces: list[tuple[bytes, int]]) -> MappedText:
    """Joins pieces, each given with its offset in the source."""
    starts, length = [], 0
    for piece, _ in pieces:
        starts.append(length)
        length += len(piece)
    return MappedText(b"".join(piece for piece, _ in pieces), starts, [offset for _, offset in pieces])


def normalise(source: bytes, start: int = 0, end: int | None = None) -> MappedText:
    """The normal form of `source[start:end]`, with the offset mapping back to the source."""
    text = source[start:end]
    pieces, position = [], 0
    for gap in _GAP.finditer(text):
        pieces.append((text[position : gap.start()].lower(), start + position))
        if gap[1] is not None and _keeps_space(text, *gap.span()):
            pieces.append((b" ", start + gap.start()))
        position = gap.end()
    pieces.append((text[position:].lower(), start + position))
    return join_pieces([piece for piece in pieces if piece[0]])


@functools.lru_cache(maxsize=8_192)
def normal_form(text: bytes) -> bytes:
    """The normal form alone; cached, since the spellings of a record recur with each of its completions."""
    return normalise(text).data


def occurrences(text: bytes, spelling: bytes) -> Iterator[tuple[int, int]]:
    """Spans of a non-empty `spelling` in `text`, in order; they may overlap."""
    start = text.find(spelling)
    while start >= 0:
        yield start, start + len(spelling)
        start = text.find(spelling, start + 1)


def occurrences_at_boundaries(text: bytes, spelling: bytes) -> Iterator[tuple[int, int]]:
    """The occurrences whose ends split neither a run of letters nor a number; both texts are in normal form.

    An empty spelling has none.
    """
    if spelling:
        for start, end in occurrences(text, spelling):
            if not _splits_token(text, start) and not _splits_token(text, end):
                yield start, end


def _keeps_space(text: bytes, start: int, end: int) -> bool:
    """Whether the gap text[start:end], which holds a space, becomes a space."""
    return start > 0 and end < len(text) and text[start - 1] not in _OPERATORS and text[end] not in _OPERATORS


def _splits_token(text: bytes, index: int) -> bool:
    """Whether `text[index - 1]` and `text[index]` belong to one run of letters or one number."""
    if not 0 < index < len(text):
        return False
    before, after = text[index - 1 : index], text[index : index + 1]
    return (before.isalpha() and after.isalpha()) or (_is_in_number(text, index - 1) and _is_in_number(text, index))


def _is_in_number(text: bytes, index: int) -> bool:
    """A digit, or a point that a digit follows."""
    return text[index : index + 1].isdigit() or (text[index] == ord(".") and text[index + 1 : index + 2].isdigit())
