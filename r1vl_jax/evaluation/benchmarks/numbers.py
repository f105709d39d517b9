"""The rules of ChartQA, DynaMath and MathVista: numbers within a tolerance, and texts."""

import json
import math
import re
import string
from collections.abc import Sequence

from r1vl_jax.data.sources.literals import parse_list
from r1vl_jax.evaluation.benchmarks.edit_distance import edit_distance
from r1vl_jax.evaluation.benchmarks.outcome import Outcome, Row, outcome, unreadable
from r1vl_jax.evaluation.benchmarks.rules import Rules
from r1vl_jax.evaluation.benchmarks.values import value_of

_RELATIVE_ERROR = 0.05  # of ChartQA
_ABSOLUTE_ERROR = 0.001  # of DynaMath
_LETTER_IN_PARENTHESES = re.compile(r"\(([A-Za-z])\)")


def relaxed_equal(reference: str, prediction: str, rules: Rules) -> bool:
    """ChartQA's relaxed correctness: numbers within 5 %; texts, and what is to be divided by 0, ignoring case."""
    divisor, other = (reference, prediction) if rules.divides_by_reference else (prediction, reference)
    number, other_number = _to_number(divisor), _to_number(other)
    if number and other_number is not None:
        return abs(other_number - number) / abs(number) <= _RELATIVE_ERROR
    return reference.lower() == prediction.lower()


def score_chartqa(row: Row, text: str, rules: Rules) -> Outcome:
    """Right if relaxed correctness holds with any of the references."""
    references = _texts(row["answer"])
    return outcome(text, any(relaxed_equal(reference.strip(), text, rules) for reference in references))


def score_dynamath(row: Row, text: str, rules: Rules) -> Outcome:
    """By `answer_type`: float, multiple choice or text. A JSON object's "short answer" is the answer."""
    text, gold = _short_answer(text), row["answer"].strip()
    if not text:
        return unreadable("no answer")
    match row["answer_type"].strip().lower():
        case "float":
            return _score_float(gold, text)
        case "multiple choice":
            letter = _only_letter(text)
            return outcome(letter, letter == gold.upper()) if letter else unreadable("names no option")
    return outcome(text, text.lower() in gold.lower())


def score_mathvista(row: Row, text: str, rules: Rules) -> Outcome:
    """An option by letter or by likeness, or a number in the form that `answer_type` asks for; then equal texts."""
    if row["question_type"].strip() == "multi_choice":
        chosen = _most_similar_option(text, _texts(row["choices"]))
        return outcome(chosen, chosen == row["answer"].strip())
    form = row["answer_type"].strip()
    number = _in_form(text, form, row)
    return unreadable("no number") if number is None else outcome(number, number == row["answer"].strip())


def _to_number(text: str) -> float | None:
    """A finite decimal; "%" behind it divides by 100."""
    try:
        number = float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _texts(cell: str) -> list[str]:
    """The texts of a list that stands in a cell, or the cell itself."""
    value = parse_list(cell)
    return [str(each) for each in value] if isinstance(value, list) else [cell]


def _short_answer(text: str) -> str:
    """What a JSON object in the text has as its short answer; else the text."""
    start, end = text.find("{"), text.rfind("}")
    if "short answer" not in text or not 0 <= start < end:
        return text
    try:
        value = json.loads(text[start : end + 1])
    except (ValueError, RecursionError):
        return text
    return str(value["short answer"]).strip() if isinstance(value, dict) and "short answer" in value else text


def _score_float(gold: str, text: str) -> Outcome:
    """Of the first token of each; "pi" is understood, percent signs are not."""
    token = text.split()[0]
    number, expected = (None if "%" in each else value_of(each) for each in (token, gold))
    if number is None or expected is None:
        return unreadable("no number")
    is_near = abs(number - expected) <= _ABSOLUTE_ERROR * (1 + 1e-9)  # 1.001 - 1 is a little more
    return outcome(token, is_near)


def _only_letter(text: str) -> str:
    """One character as it is, or the only one of A to E anywhere in a text; "" for several or none."""
    letters = [letter for letter in "ABCDE" if letter in text.upper()]
    if len(text) == 1:
        return text.upper()
    return letters[0] if len(letters) == 1 else ""


def _most_similar_option(text: str, choices: Sequence[str]) -> str:
    """The option that a letter names, alone or the first in parentheses; else that of least edit distance."""
    letter = _LETTER_IN_PARENTHESES.search(text)
    text = letter[1].upper() if letter else text
    number = string.ascii_uppercase.find(text) if len(text) == 1 else -1
    if 0 <= number < len(choices):
        return choices[number]
    return min(choices, key=lambda choice: edit_distance(text, choice), default="")


def _in_form(text: str, form: str, row: Row) -> str | None:
    """A text as the number that it should be, written as the answers are; None if it is no number."""
    if form not in ("integer", "float"):
        return text
    try:
        number = float(text)
        return str(int(number)) if form == "integer" else str(round(number, _precision(row)))
    except (ValueError, OverflowError):  # no number, and infinity as an integer
        return None


def _precision(row: Row) -> int:
    """The decimals of the column, which pandas may have made 1.0, or else of the answer."""
    if cell := row.get("precision", "").strip():
        return int(float(cell))
    return len(row["answer"].strip().partition(".")[2])
