"""The rules of MathVision and MathVerse: options, and expressions that are compared as what they are worth.

Expressions are parsed, never evaluated as programs; what only math-verify can compare is left to a process of its own.
"""

import re

from r1vl_jax.data.solutions import arithmetic
from r1vl_jax.evaluation.benchmarks.letters import infer_letter
from r1vl_jax.evaluation.benchmarks.outcome import Outcome, Row, outcome
from r1vl_jax.evaluation.benchmarks.rules import Rules
from r1vl_jax.evaluation.benchmarks.values import texts_of, value_of
from r1vl_jax.rewards.answers import compare, plain_text, reading
from r1vl_jax.rewards.strings import to_bytes, to_text

_LETTER_AT_END = re.compile(r"\s\(?([A-E])\)?\.\Z")
_LETTER_AT_START = re.compile(r"\(?([A-E])\)?[ \t]*(?:\n|\Z)")
_LETTER_AND_TEXT = re.compile(r"\(?([A-E])\)?[:.]\s")  # as our responses name an option: "B: 45"
_PHRASE = re.compile(r"the\s+(?:final\s+|correct\s+)?answer\s+(?:is|should\s+be)\b[\s:]*", re.IGNORECASE)
_NUMBER_AT_END = re.compile(r"\bis ([-+]?\d+(?:\.\d+)?)\.?\Z")
_PHRASE_END = re.compile(r"\n|\.\s")
_RELATION = re.compile(r"=|\\approx(?![A-Za-z])")
_UNIT = re.compile(r"\s*(?:°|\\?%|(?<![a-z])(?:km|m\^3|units?))\Z")
_OPTION_LINE = re.compile(r"^\s*\(?([A-H])\)?\s*[:.]\s*(.*?)\s*$", re.MULTILINE)
_MAX_LENGTH = 200  # characters of an expression that is looked into
_MAX_ITEMS = 32


def score_mathvision(row: Row, text: str, rules: Rules) -> Outcome:
    """The answer in a response against `answer`, and where this is a letter against the option's text, too."""
    gold, choices = row["answer"].strip(), texts_of(row["choices"])
    answer = _mathvision_answer(text, has_choices=bool(choices))
    number = "ABCDE".find(gold) if len(gold) == 1 else -1
    golds = [gold, choices[number]] if 0 <= number < len(choices) else [gold]
    if any(are_equal(each, answer) for each in golds):
        return outcome(answer, True)
    if _is_formula(gold) and _is_formula(answer):
        return Outcome(answer, compare(gold, answer))
    return outcome(answer, False)


def score_mathverse(row: Row, text: str, rules: Rules) -> Outcome:
    """A multiple-choice question by the letter rule, a free-form one by text or math-verify."""
    gold = row["answer"].strip()
    answer = to_text(reading.anywhere(to_bytes(text)))
    if row["question_type"].strip().replace("_", "-") != "multi-choice":
        return Outcome(answer, compare(gold, answer))
    asked = f"{row['question']}\n{row.get('question_for_eval', '')}"  # with the picture alone, the former is empty
    options = dict(_OPTION_LINE.findall(asked)) or dict.fromkeys("ABCDE", "")
    letter = infer_letter(plain_text(answer), options, rules)
    return outcome(letter or "", letter == gold.strip("()."), "" if letter else "names no option")


def are_equal(gold: str, prediction: str) -> bool:
    """Equal texts ignoring case, tuples of equal elements, or values that are equal to two decimals."""
    one, other = _normal(gold), _normal(prediction)
    if one.lower() == other.lower():
        return bool(other)
    items, other_items = _items(one), _items(other)
    if len(items) == len(other_items) and 1 < len(items) <= _MAX_ITEMS:
        return all(are_equal(*pair) for pair in zip(items, other_items, strict=True))
    value, other_value = value_of(one), value_of(other)
    return value is not None and other_value is not None and round(value, 2) == round(other_value, 2)


def _mathvision_answer(text: str, *, has_choices: bool) -> str:
    """A letter at the end or the start, else a number behind the last "is", a box, "the answer is", else all."""
    letter = _LETTER_AT_END.search(text[-8:]) or _LETTER_AT_START.match(text)
    if letter or (has_choices and (letter := _LETTER_AND_TEXT.match(text))):
        return letter[1]
    if number := _NUMBER_AT_END.search(text[-_MAX_LENGTH:]):
        return number[1]
    if "\\boxed" in text:
        return plain_text(to_text(reading.anywhere(to_bytes(text))))
    phrases = list(_PHRASE.finditer(text))
    return _PHRASE_END.split(text[phrases[-1].end() :], maxsplit=1)[0].strip() if phrases else text


def _normal(text: str) -> str:
    """An answer without wrapping, what stands before its last `=` or `≈`, the separators of thousands, and its unit."""
    text = plain_text(text)
    if len(text) > _MAX_LENGTH:
        return text
    text = _RELATION.split(text)[-1].strip()
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text) if not text.startswith("(") else text
    text = _UNIT.sub("", text).strip()
    return text.strip("()") if re.fullmatch(r"\([A-Ea-e]\)", text) else text


def _items(text: str) -> list[str]:
    inner = text[1:-1] if text[:1] in "([{" and text[-1:] in ")]}" and text else text
    return [item.strip() for item in inner.split(",")]


def _is_formula(text: str) -> bool:
    """Whether it has quantities that are not known, and so no value; an option's letter is none."""
    is_short = 1 < len(text) <= _MAX_LENGTH
    return is_short and re.search(r"[\d=+*/^\\-]", text) is not None and arithmetic.has_symbols(text)
