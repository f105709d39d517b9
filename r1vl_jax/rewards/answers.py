r"""Final answers: how they are extracted, and the exact comparison that decides most of them without math-verify.

Every text is UTF-8 bytes. `is_equal` returns None, "undecided", where only `rewards.Judge` can decide.
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
    rb"|\\frac\{(?P<numerator>-?[0-9]+)\}\{(?P<denominator>-?[0-9]+)\})"
)
# Python limits the digits of an integer that it parses (to 4,300 by default); no honest answer is that long.
_MAX_NUMBER_LENGTH = 1_000
# Multiple-choice letters, before normalisation: `B`, `(B)`, `B: 45`, `B) 45`. Letters after J are variables.
_OPTION = re.compile(rb"\(([A-Ja-j])\)(?:[:.\s].*)?|([A-Ja-j])(?:[:)].*|\.(?:\s.*)?)?", re.DOTALL)
_LETTERS = re.compile(rb"[a-z]+")


def gold_answer(text: bytes) -> bytes:
    """The answer of a record: the line below the answer heading of a whole response, or the whole text."""
    return first_answer_line(text) if _HEADING in text else text.strip()


def first_answer_line(text: bytes) -> bytes:
    """The first non-blank line after the first answer heading, at any position of a line; empty without one."""
    return first_line(text.partition(_HEADING)[2])


def first_line(text: bytes) -> bytes:
    """The first non-blank line, stripped."""
    return text.strip().partition(b"\n")[0].strip()


def is_equal(gold: bytes, prediction: bytes) -> bool | None:
    r"""Whether two answers are equal; None where this comparison does not decide it.

    Answers with the same normal form are equal. Two numbers (integer, decimal, percentage, a/b or `\frac{a}{b}`) are
    compared by exact value, two option letters, with or without text, by the letters. A number and a text of letters
    only are not equal. All else is undecided.
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
    """The exact value of a number in normal form; None if it is not a number, or divides by zero."""
    match = _NUMBER.fullmatch(form) if len(form) <= _MAX_NUMBER_LENGTH else None
    if match is None:
        return None
    if match["decimal"]:
        value = Fraction(match["decimal"].replace(b",", b"").decode())
        value = value / 100 if match["percent"] else value
    else:
        numerator, denominator = int(match["a"] or match["numerator"]), int(match["b"] or match["denominator"])
        if denominator == 0:
            return None
        value = Fraction(numerator, denominator)
    return -value if match["sign"] == b"-" else value


def to_option(answer: bytes) -> bytes | None:
    """The letter of a multiple-choice option, case-folded; None if the answer is not one."""
    match = _OPTION.fullmatch(answer.strip())
    return (match[1] or match[2]).lower() if match else None


def is_letters(form: bytes) -> bool:
    """Whether a text in normal form consists of letters only."""
    return _LETTERS.fullmatch(form) is not None
