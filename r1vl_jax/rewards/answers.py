r"""Final answers: how they are extracted, and the comparison that settles most of them without math-verify.

Every text is UTF-8 bytes. `is_equal` says None, "undecided", where only `judge.Judge` can tell.
"""

import re
from fractions import Fraction

from r1vl_jax import response_format
from r1vl_jax.rewards.normal_form import normal_form

_HEADING = response_format.ANSWER.encode()
_DECIMAL = rb"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
_NUMBER = re.compile(
    rb"(?P<sign>[+-]?)(?:"
    rb"(?P<decimal>" + _DECIMAL + rb")(?P<percent> ?\\?%)?"
    rb"|(?P<a>[0-9]+)/(?P<b>[0-9]+)"
    rb"|\\frac\{(?P<top>-?[0-9]+)\}\{(?P<bottom>-?[0-9]+)\})"
)
# Beyond it Python refuses to read an integer, and no honest answer is that long.
_MAX_NUMBER_LENGTH = 1_000
# Multiple-choice letters; other single letters are variables. Before normalisation: `B`, `(B)`, `B: 45`, `B) 45`.
_OPTION = re.compile(rb"\(([A-Ja-j])\)(?:[:.\s].*)?|([A-Ja-j])(?:[:)].*|\.(?:\s.*)?)?", re.DOTALL)
_LETTERS = re.compile(rb"[a-z]+")


def reference_answer(text: bytes) -> bytes:
    """The answer of a record: the line below the answer heading of a whole solution, or all of the text."""
    return answer_line(text) if _HEADING in text else text.strip()


def answer_line(text: bytes) -> bytes:
    """The first line with anything on it behind the first answer heading, wherever that stands; empty if none is."""
    return first_line(text.partition(_HEADING)[2])


def first_line(text: bytes) -> bytes:
    """The first line with anything on it, without white space around it."""
    return text.strip().partition(b"\n")[0].strip()


def is_equal(gold: bytes, prediction: bytes) -> bool | None:
    r"""Whether two answers are the same; None where this is not decided.

    Decided if they are equal in normal form; if each is an integer, decimal, percentage, a/b or `\frac{a}{b}`, by exact
    value; if each is an option letter, with or without text, by the letters; or if one is such a number and the other
    is letters only, which are never the same.
    """
    gold_form, prediction_form = normal_form(gold.strip()), normal_form(prediction.strip())
    if gold_form == prediction_form:
        return True
    gold_number, prediction_number = to_number(gold_form), to_number(prediction_form)
    if gold_number is not None and prediction_number is not None:
        return gold_number == prediction_number
    gold_option, prediction_option = to_option(gold), to_option(prediction)
    if gold_option is not None and prediction_option is not None:
        return gold_option == prediction_option
    if gold_number is not None and is_letters(prediction_form):
        return False
    if prediction_number is not None and is_letters(gold_form):
        return False
    return None


def to_number(form: bytes) -> Fraction | None:
    """The exact value of a number in normal form; None if it is no number, or divides by zero."""
    match = _NUMBER.fullmatch(form) if len(form) <= _MAX_NUMBER_LENGTH else None
    if match is None:
        return None
    if match["decimal"]:
        value = Fraction(match["decimal"].replace(b",", b"").decode())
        value = value / 100 if match["percent"] else value
    else:
        top, bottom = int(match["a"] or match["top"]), int(match["b"] or match["bottom"])
        if bottom == 0:
            return None
        value = Fraction(top, bottom)
    return -value if match["sign"] == b"-" else value


def to_option(answer: bytes) -> bytes | None:
    """The letter of an option, folded; None if the answer names none."""
    match = _OPTION.fullmatch(answer.strip())
    return (match[1] or match[2]).lower() if match else None


def is_letters(form: bytes) -> bool:
    """Whether a text in normal form is made of letters only."""
    return _LETTERS.fullmatch(form) is not None
