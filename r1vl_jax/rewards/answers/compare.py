"""Whether a prediction equals a gold answer. The gold answer's kind decides; docs/rewards.md has the rules in words."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from r1vl_jax.rewards.answers.dates import Date, Ratio, Time
from r1vl_jax.rewards.answers.kinds import Answer, Items, Named, Option, Quantity, Range, Words
from r1vl_jax.rewards.answers.mathematics import is_relation, to_latex, variables
from r1vl_jax.rewards.answers.parsing import parse_answer
from r1vl_jax.rewards.answers.typography import plain_text

Question = tuple[str, str]

# In the text behind an option's letter: another letter, "or", or a denial.
_OTHER_CANDIDATE = re.compile(
    r"\bor\b|(?<![A-Za-z])[A-J](?![A-Za-z'])|(?<![A-Za-z])[a-j]\s?[:)]"
    r"|\b(?:not|isn't)\s+(?:the|correct|right|true|it)\b|\b(?:wrong|false|incorrect|maybe|perhaps|possibly)\b|[错或]"
    r"|不对"
)
_FOLDED_KINDS = ("option", "words", "yes/no")
_MAX_ITEMS = 32  # of a list; a longer one equals only itself
_MAX_QUESTIONS = 36  # pairs of items of an unordered list that math-verify compares


@dataclass(frozen=True)
class Comparison:
    """What the comparison of two answers says.

    Attributes:
        is_correct: None where only math-verify can decide.
        reason: a few words.
        question: LaTeX in dollars, gold answer first, that has to be equal.
        parts: comparisons that all have to be right.
        pairings: of each item of an unordered list with each item of the other; some one-to-one choice of them has to
            be right.
        alternatives: comparisons with several gold answers, of which one has to be right.
        number: of the gold answer that is compared, counted from 0.
    """

    is_correct: bool | None
    reason: str
    question: Question | None = None
    parts: "tuple[Comparison, ...]" = ()
    pairings: "tuple[tuple[Comparison, ...], ...]" = ()
    alternatives: "tuple[Comparison, ...]" = ()
    number: int = 0

    def questions(self) -> Iterator[Question]:
        """All that math-verify has to be asked."""
        if self.question:
            yield self.question
        for part in (*self.parts, *self.alternatives, *itertools.chain(*self.pairings)):
            yield from part.questions()

    def decide(self, reason_of: Mapping[Question, str]) -> "Comparison":
        """The comparison with math-verify's reasons, of which "equal" is the one that makes an answer right."""
        if self.is_correct is not None:
            return self
        if self.alternatives:
            return _any([alternative.decide(reason_of) for alternative in self.alternatives])
        if self.question:
            reason = reason_of[self.question]
            return Comparison(reason == "equal", f"math-verify: {reason}")
        parts = [part.decide(reason_of) for part in self.parts]
        pairings = [[pair.decide(reason_of).is_correct is True for pair in row] for row in self.pairings]
        if not all(part.is_correct for part in parts) or not _has_matching(pairings):
            return _wrong("in the list: math-verify: different")
        return Comparison(True, "in the list: math-verify: equal")


def compare_any(golds: Sequence[str], prediction: str) -> Comparison:
    """Compares a prediction with gold answers, at least one, of which each is right; of several the reason says which.

    A wrong one has the reason of the first.
    """
    return _any([compare(gold, prediction) for gold in golds])


def compare(gold: str, prediction: str) -> Comparison:
    """Compares a prediction with a gold answer; both as they were written."""
    if gold.strip() == prediction.strip():
        return Comparison(True, "same text")
    if not prediction.strip():
        return _wrong("no answer")
    one, other = parse_answer(gold), parse_answer(prediction)
    if one.kind in _FOLDED_KINDS and _folded(gold) == _folded(prediction):
        return _right(one)  # of AI, in any case, whatever else its letters can be
    return _compare(one, other)


def _compare(gold: Answer, prediction: Answer) -> Comparison:
    if gold == prediction and not isinstance(gold, Option):
        return _right(gold)
    if isinstance(gold, Option):
        return _compare_option(gold, prediction)
    if isinstance(prediction, Option):
        return _compare_text_of_option(gold, prediction)
    if isinstance(prediction, Named):
        if isinstance(gold, Items) and any(isinstance(item, Named) for item in gold.items):
            return _wrong("one name for several")
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
    return _wrong(
        {Words: "other words", Range: "another range", Date: "another date", Ratio: "another ratio"}[type(gold)]
    )


def _any(comparisons: list[Comparison]) -> Comparison:
    if len(comparisons) == 1:
        return comparisons[0]
    for number, comparison in enumerate(comparisons):
        if comparison.is_correct:
            reason = f"{comparison.reason} (accepted answer {number + 1} of {len(comparisons)})"
            return replace(comparison, number=number, reason=reason)
    is_open = any(comparison.is_correct is None for comparison in comparisons)
    return Comparison(None, "math-verify decides", alternatives=tuple(comparisons)) if is_open else comparisons[0]


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
    if (gold.may_be_variable and is_bare) or (prediction.may_be_variable and not has_unit):
        return _wrong("a letter behind the number, or none")
    if not has_unit and len(prediction.unit) > 1 and all(power > 0 for _, power in prediction.unit):
        return _wrong("several words behind the number")
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
    # Bare values for named ones, or for quantities of several units, have to come in the same order.
    are_described = [any(map(_is_described, items)) for items in (gold.items, prediction.items)]
    if gold.brackets not in ("", "or") or are_described[0] != are_described[1]:
        return _all([_compare(*pair) for pair in zip(gold.items, prediction.items, strict=True)])
    pairings = tuple(tuple(_compare(item, other) for other in prediction.items) for item in gold.items)
    if _has_matching([[pair.is_correct is True for pair in row] for row in pairings]):
        return _right(gold)
    num_questions = sum(pair.is_correct is None for row in pairings for pair in row)
    can_match = [[pair.is_correct is not False for pair in row] for row in pairings]
    if num_questions > _MAX_QUESTIONS or not _has_matching(can_match):
        return _wrong("another answer in the list")
    return Comparison(None, "math-verify decides", pairings=pairings)


def _is_described(item: Answer) -> bool:
    return isinstance(item, Named) or (isinstance(item, Quantity) and bool(item.unit or item.noun))


def _all(comparisons: list[Comparison]) -> Comparison:
    """The comparison of a list whose items are compared one by one."""
    wrong = next((comparison for comparison in comparisons if comparison.is_correct is False), None)
    if wrong:
        return _wrong(f"in the list: {wrong.reason}")
    undecided = tuple(comparison for comparison in comparisons if comparison.is_correct is None)
    return Comparison(None, "math-verify decides", parts=undecided) if undecided else Comparison(True, "same list")


def _has_matching(is_allowed: list[list[bool]]) -> bool:
    """Whether each row can be given a column of its own."""
    row_of: dict[int, int] = {}

    def place(row: int, tried: set[int]) -> bool:
        for column, allowed in enumerate(is_allowed[row]):
            if allowed and column not in tried:
                tried.add(column)
                if column not in row_of or place(row_of[column], tried):
                    row_of[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(len(is_allowed)))


def _folded(text: str) -> str:
    return " ".join(plain_text(text).casefold().split())


def _undecided(latex: tuple[str, str]) -> Comparison:
    gold, prediction = (f"${expression}$" for expression in latex)
    return Comparison(None, "math-verify decides", (gold, prediction))


def _right(gold: Answer) -> Comparison:
    return Comparison(True, f"same {gold.kind}")


def _wrong(reason: str) -> Comparison:
    return Comparison(False, reason)
