"""What a sentence mentions without stating it: what it denies, asks, or supposes."""

import bisect
import re
from collections.abc import Iterator
from dataclasses import dataclass

_SENTENCE_END = re.compile(r"(?<=[.;!?])\s|(?<![:,])(?<!that)\n|[。！？；]|$")
_DENIED_OR_ASKED = re.compile(
    r"\b(?:not|never|cannot|neither|wrong\w*|incorrect\w*|false\w*|impossible|invalid|untrue|contradict\w*|mistake\w*)\b"
    r"|n[’']t\b|[?？]|不|没|[错錯误誤]",
    re.IGNORECASE,
)
_SUPPOSED = re.compile(
    r"\b(?:if|suppos\w+|assum\w+|let|say|imagin\w+|would|could|might|maybe|perhaps|guess\w*|try|unless|whether|when"
    r"|whenever|hypothe\w+|either|otherwise)\b|如果|假设|若|设",
    re.IGNORECASE,
)
_CASE = re.compile(r"\b(?:for|at|or)\s+\$?$", re.IGNORECASE)  # "for x = 2"
_RETRACTED = re.compile(  # white space is bounded, so that blank lines do not make this slow
    r"\s{0,8}(?:but\s{1,8})?(?:that|this|it)(?:\s{1,8}is|['’]s)\s{1,8}(?:wrong|incorrect|false|impossible|not)\b"
    r"|\s{0,8}(?:wrong|incorrect|wait|hmm+|oops|actually|no(?=[,.!]))\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Doubts:
    """The sentences of a text, each with what makes it doubtful.

    Attributes:
        text: all of it.
        ends: of each sentence, ascending.
        is_denied: whether a sentence denies or asks something, or is taken back, so nothing in it counts as stated.
        is_supposed: whether it supposes something, so only what is true anyway counts as stated.
    """

    text: str
    ends: tuple[int, ...]
    is_denied: tuple[bool, ...]
    is_supposed: tuple[bool, ...]

    @classmethod
    def read(cls, text: str) -> "Doubts":
        ends, denied, supposed = [], [], []
        for start, end in _sentences(text):
            ends.append(end)
            is_retracted = _RETRACTED.match(text, end) is not None
            denied.append(is_retracted or _DENIED_OR_ASKED.search(text, start, end) is not None)
            supposed.append(_SUPPOSED.search(text, start, end) is not None)
        return cls(text, tuple(ends), tuple(denied), tuple(supposed))

    def leave(self, start: int, *, is_true_anyway: bool) -> bool:
        """Whether what begins at this offset counts as stated.

        Args:
            is_true_anyway: whether arithmetic alone shows it.
        """
        sentence = min(bisect.bisect_right(self.ends, start), len(self.ends) - 1)
        if self.is_denied[sentence]:
            return False
        is_case = _CASE.search(self.text, max(0, start - 8), start) is not None
        return is_true_anyway or not (self.is_supposed[sentence] or is_case)


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for end in _SENTENCE_END.finditer(text):
        yield start, end.end()
        start = end.end()
