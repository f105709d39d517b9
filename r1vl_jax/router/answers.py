"""Compares an answer with gold answers by their words, after the normalisation of VQA's evaluation.

recall_of_best("It was Jules Verne.", ["Verne", "Jules Verne"])      1.0, of "Jules Verne"
exact_match("the Jules Verne!", ["Jules Verne"])                     True
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_NUMBER_WORDS = "zero one two three four five six seven eight nine ten".split()
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS)} | {"none": "0"}
_ARTICLES = {"an", "the"}  # "a" is kept: R1-Router's answers are compared so
_MARKS = ';/[]"{}()=+\\_-><@`,?!'  # as VQA's evaluation has them
_MARK_SET = frozenset(_MARKS)
_DIGIT_GROUP = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
# Words by themselves: the clitic of "Verne's", "%" and "$", and each Chinese character.
_APART = re.compile(r"'s\b|[%$&#*\u3400-\u9fff]")
_BETWEEN_WORDS = re.compile(r":(?!\d)|(?<!\d):|[，。、；：？！《》（）「」·]")  # a colon stays within "10:30"
_QUOTES = str.maketrans("‘’“”", "''\"\"")


@dataclass(frozen=True)
class Overlap:
    """Words that two answers share, each as often as both have it, as fractions from 0 to 1.

    Attributes:
        precision: of the prediction's words.
        recall: of the gold answer's words.
        f1: their harmonic mean.
    """

    precision: float
    recall: float
    f1: float


_NOTHING = Overlap(0.0, 0.0, 0.0)


def normalize(text: str) -> str:
    """An answer in VQA's normal form: lower case, digits for words up to ten, without articles and punctuation.

    A mark that stands beside a space somewhere in the text is removed, and so are all where the text groups digits
    ("1,000"); any other becomes a space. A full stop is removed unless a digit follows.

    Source:
        Antol et al., VQA, 2015, https://github.com/GT-Vision-Lab/VQA, without its article "a".
    """
    text = " ".join(text.translate(_QUOTES).lower().split())
    found = (_DIGITS.get(word, word) for word in _FULL_STOP.sub("", _without_marks(text)).split())
    return " ".join(word for word in found if word not in _ARTICLES)


def words(text: str) -> list[str]:
    """The words of an answer in normal form, Chinese by character. Apostrophes are dropped: "dont" is "don't"."""
    parts = _APART.sub(r" \g<0> ", _BETWEEN_WORDS.sub(" ", normalize(text))).split()
    return [word for part in parts if (word := part if part == "'s" else part.replace("'", ""))]


def overlap(prediction: str, gold: str) -> Overlap:
    """How far the words of two answers agree; nothing where either has none."""
    return _overlap(words(prediction), words(gold))


def _overlap(predicted: Sequence[str], expected: Sequence[str]) -> Overlap:
    if set(predicted).isdisjoint(expected):  # as nearly all candidates of a range are
        return _NOTHING
    num_shared = (Counter(predicted) & Counter(expected)).total()
    precision, recall = num_shared / len(predicted), num_shared / len(expected)
    return Overlap(precision, recall, 2 * precision * recall / (precision + recall))


def best_overlap(prediction: str, golds: Sequence[str]) -> Overlap:
    """The overlap of highest F1 with any of these gold answers, the first of equals; nothing where F1 is 0."""
    predicted = words(prediction)
    return max((_overlap(predicted, words(gold)) for gold in golds), key=lambda each: each.f1, default=_NOTHING)


def recall_of_best(prediction: str, golds: Sequence[str]) -> float:
    """Recall of the gold answer of highest F1, from 0 to 1: R1-Router's metric, "F1-Recall"."""
    return best_overlap(prediction, golds).recall


def exact_match(prediction: str, golds: Sequence[str]) -> bool:
    """Whether the answer is one of these gold answers, word by word; an answer without words is none."""
    predicted = words(prediction)
    return bool(predicted) and any(predicted == words(gold) for gold in golds)


def _without_marks(text: str) -> str:
    """The text with each mark removed or made a space, as all of them stand before."""
    if _MARK_SET.isdisjoint(text):
        return text
    groups_digits = _DIGIT_GROUP.search(text) is not None
    removed = "".join(mark for mark in _MARKS if groups_digits or f"{mark} " in text or f" {mark}" in text)
    return text.translate(dict.fromkeys(map(ord, _MARKS), " ") | dict.fromkeys(map(ord, removed)))
