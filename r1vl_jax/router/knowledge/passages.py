"""Cuts texts into passages: overlapping windows of words, the rest as a last one."""

import re
from collections.abc import Iterator

from r1vl_jax.router.knowledge.document import Document
from r1vl_jax.router.words import pieces

_SURROGATE = re.compile("[\ud800-\udfff]")


def one_line(text: str) -> str:
    """A text with single spaces between its words; halves of surrogate pairs, which no file holds, are replaced."""
    return _SURROGATE.sub("\ufffd", " ".join(text.split()))


def cut(document: Document, *, window_words: int, stride_words: int) -> Iterator[Document]:
    """The passages of a document, each behind the document's title.

    Args:
        window_words: length of a window; 0 leaves the text whole.
        stride_words: from the start of one window to that of the next.
    """
    heading = f"{title}: " if (title := one_line(document.title)) else ""
    for number, text in enumerate(_windows(one_line(document.text), window_words, stride_words), start=1):
        name = document.id if number == 1 else f"{document.id}#{number}"
        yield Document(one_line(name), heading + text if text else "", document.image)


def _windows(text: str, window_words: int, stride_words: int) -> Iterator[str]:
    if not window_words:
        yield text
    elif spans := pieces(text):
        for start in _starts(len(spans), window_words, stride_words):
            window = spans[start : start + window_words]
            yield text[window[0][0] : window[-1][1]]
    else:
        words = text.split(" ")
        for start in _starts(len(words), window_words, stride_words):
            yield " ".join(words[start : start + window_words])


def _starts(num_words: int, window: int, stride: int) -> range:
    """The last window is the first one that reaches the end."""
    return range(0, max(num_words - window, 0) + stride, stride)
