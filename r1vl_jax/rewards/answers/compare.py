"""Whether a prediction equals a gold answer. The gold answer's kind decides; docs/rewards.md has the rules in words."""

import re
from dataclasses import dataclass
from fractions import Fraction

from r1vl_jax.rewards.answers.dates import Date, Time
from r1vl_jax.rewards.answers.kinds import Answer, Items, Named, Option, Quantity, Range, Words
from r1vl_jax.rewards.answers.mathematics import is_relation, to_latex, variables
from r1vl_jax.rewards.answers.parsing import parse_answer
from r1vl_jax.rewards.answers.typography import plain_text

# What only math-verify can decide: pairs of LaTeX in dollars, gold answer first, all of which have to be equal.
Questions = tuple[tuple[str, str], ...]

_OTHER_CANDIDATE = re.compile(
    r"\bor\b|(?<![A-Za-z])\(?[A-J]\s*[):.](?=\s|$)|(?:^|\band\b|[,;/&])\s*\(?[A-J]\)?(?![A-Za-z'’])"
    r"|\b(?:not|isn't)\s+(?:correct|right|true|it\b|\(?[A-J]\b)|\b(?:wrong|incorrect|maybe|perhaps|possibly)\b"
)

_MAX_ITEMS = 64  # of a list; a longer one equals only itself


@dataclass(frozen=True)
class Comparison:
    """What the comparison of two answers says.

    Attributes:
        is_correct: None where only math-verify can decide, which then gets `questions`.
        reason: one of a few sentences, or how math-verify decided.
        questions: expressions to compare, gold answer first; all have to be equal.
    """

    is_correct: bool | None
    reason: str
    questions: Questions = ()


def compare(gold: str, prediction: str) -> Comparison:
    """Compares a prediction with a gold answer; both as they were written."""
    if gold.strip() == prediction.strip():
        return Comparison(True, "same text")
    if not prediction.strip():
        return _wrong("no answer")
    return _compare(parse_answer(gold), parse_answer(prediction))


def _compare(gold: Answer, prediction: Answer) -> Comparison:
    if gold == prediction and not isinstance(gold, Option):
        return _right(gold)
    if isinstance(gold, Option):
        return _compare_option(gold, prediction)
    if isinstance(prediction, Option):
        return _compare_text_of_option(gold, prediction)
    if isinstance(prediction, Named):
        return _compare_named(gold, prediction)
    if isinstance(gold, Named):
        return _compare(gold.value, prediction)
    if isinstance(gold, Quantity) and isinstance(prediction, Quantity):
        return _compare_quantities(gold, prediction)
    if isinstance(gold, Items) and isinstance(prediction, Items):
        return _compare_items(gold, prediction)
    if isinstance(gold, Time) and isinstance(prediction, Time):
        is_same = gold.parts == prediction.parts and (not gold.half or not prediction.half)
        return _right(gold) if is_same else _wrong("another time")
    if type(gold) is not type(prediction):
        several = isinstance(prediction, Items | Range)
        return _wrong("several answers for one" if several else f"{prediction.kind} for {gold.kind}")
    return _wrong({Words: "other words", Range: "another range", Date: "another date"}[type(gold)])


def _compare_option(gold: Option, prediction: Answer) -> Comparison:
    if not isinstance(prediction, Option):
        is_its_text = bool(gold.text) and _folded(gold.text) == _folded(str(prediction))
        is_its_text = is_its_text or (bool(gold.text) and parse_answer(gold.text) == prediction)
        return Comparison(True, "text of the option") if is_its_text else _wrong(f"{prediction.kind} for option")
    if gold.letter != prediction.letter:
        return _wrong("another option")
    is_single = _folded(gold.text) == _folded(prediction.text) or not _OTHER_CANDIDATE.search(prediction.text)
    return _right(gold) if is_single else _wrong("several answers for one")


def _compare_text_of_option(gold: Answer, prediction: Option) -> Comparison:
    """A gold answer without a letter is right by its text behind a letter."""
    text = parse_answer(prediction.text) if prediction.text else None
    if text is None or isinstance(text, Option):
        return _wrong(f"option for {gold.kind}")
    return _compare(gold, text)


def _compare_named(gold: Answer, prediction: Named) -> Comparison:
    if not isinstance(gold, Named):
        return _compare(gold, prediction.value)
    if gold.name != prediction.name:
        return _wrong("another name")
    return _compare(gold.value, prediction.value)


def _compare_quantities(gold: Quantity, prediction: Quantity) -> Comparison:
    has_unit = bool(gold.unit or gold.noun)
    is_bare = not (prediction.unit or prediction.noun)
    if has_unit and not is_bare and (gold.unit, gold.noun) != (prediction.unit, prediction.noun):
        return _wrong("another unit")
    if isinstance(gold.value, Fraction) and isinstance(prediction.value, Fraction):
        return _right(gold) if gold.value == prediction.value else _wrong("another value")
    if gold.value == prediction.value:
        return _right(gold)
    latex = to_latex(gold.value), to_latex(prediction.value)
    # math-verify takes A for a, drops a unit behind an expression, and takes x >= 5 for 5.
    if variables(latex[0]) != variables(latex[1]):
        return _wrong("other variables")
    if is_relation(latex[0]) != is_relation(latex[1]):
        return _wrong("a relation for an expression, or the reverse")
    return _undecided(latex)


def _compare_items(gold: Items, prediction: Items) -> Comparison:
    if gold.brackets != prediction.brackets:
        return _wrong("other brackets")
    if len(gold.items) != len(prediction.items) or len(gold.items) > _MAX_ITEMS:
        return _wrong("another number of answers")
    are_named = [all(isinstance(item, Named) for item in items) for items in (gold.items, prediction.items)]
    is_ordered = gold.brackets not in ("", "or") or are_named[0] != are_named[1]
    if is_ordered:
        return _all([_compare(*pair) for pair in zip(gold.items, prediction.items, strict=True)])
    rest, comparisons = list(prediction.items), []
    undecided: list[Answer] = []
    for item in gold.items:
        match = next((other for other in rest if _compare(item, other).is_correct), None)
        if match is None:
            undecided.append(item)
        else:
            rest.remove(match)
    if len(undecided) == 1:
        comparisons = [_compare(undecided[0], rest[0])]
    elif undecided:  # math-verify matches the rest by its sets
        if not all(_compare(item, other).is_correct is None for item in undecided for other in rest):
            return _wrong("another answer in the list")
        sets = [rf"\{{{', '.join(to_latex(item.value) for item in items)}\}}" for items in (undecided, rest)]  # type: ignore[union-attr]
        return _undecided((sets[0], sets[1]))
    return _all(comparisons) if comparisons else _right(gold)


def _all(comparisons: list[Comparison]) -> Comparison:
    """The comparison of a list whose items are compared one by one."""
    wrong = next((comparison for comparison in comparisons if comparison.is_correct is False), None)
    if wrong:
        return _wrong(f"in the list: {wrong.reason}")
    questions = tuple(question for comparison in comparisons for question in comparison.questions)
    return Comparison(None, "math-verify decides", questions) if questions else Comparison(True, "same list")


def _folded(text: str) -> str:
    return " ".join(plain_text(text).casefold().split())


def _undecided(latex: tuple[str, str]) -> Comparison:
    gold, prediction = (f"${expression}$" for expression in latex)
    return Comparison(None, "math-verify decides", ((gold, prediction),))


def _right(gold: Answer) -> Comparison:
    return Comparison(True, f"same {gold.kind}")


def _wrong(reason: str) -> Comparison:
    return Comparison(False, reason)
