"""Why an answer is right or wrong: its kind, the normal forms of both answers, the verdict and its reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r1vl_jax.rewards import strings
from r1vl_jax.rewards.answers import Comparison, compare_any, parse_answer
from r1vl_jax.rewards.math_verify import Judge
from r1vl_jax.rewards.records import gold_answers


@dataclass(frozen=True)
class Explanation:
    """How a prediction was compared with a gold answer.

    Attributes:
        kind: of the gold answer: "option", "yes/no", "words", "number", "number with unit", "list", "interval",
            "range", "time", "date", "name = value" or "mathematics".
        gold, prediction: both answers as they were compared, without wrapping and in one typography; of several gold
            answers the one that the prediction equals, or else the first.
        is_correct: the verdict; None where only math-verify can decide and there is no judge.
        reason: a few words.
    """

    kind: str
    gold: str
    prediction: str
    is_correct: bool | None
    reason: str


def explain(gold: str | Sequence[str], prediction: str, *, judge: Judge | None = None) -> Explanation:
    """Compares two answers as rewards do, and says why they are equal or not.

    Args:
        gold, prediction: answers, not whole completions; of several gold answers each is right.
        judge: decides mathematics that is not the same text; without one the verdict is None.
    """
    golds = [gold] if isinstance(gold, str) else list(gold)
    (comparison,) = decide([compare_any(golds, prediction)], judge)
    return _explanation(golds[comparison.number], prediction, comparison)


def explain_completions(
    completions: Sequence[str | bytes],
    records: Sequence[Mapping[str, Any]],
    *,
    semantics: str = "paper",
    judge: Judge | None = None,
) -> list[Explanation]:
    """Explains the answer of each completion; arguments as for `rewards.score`."""
    golds_of = [gold_answers(record, row) for row, record in enumerate(records)]
    answers = [
        strings.parse_answer(strings.to_bytes(completion), golds, semantics=semantics)
        for completion, golds in zip(completions, golds_of, strict=True)
    ]
    comparisons = decide([answer.comparison for answer in answers], judge)
    return [
        _explanation(strings.to_text(golds[comparison.number]), answer.text, comparison)
        for golds, answer, comparison in zip(golds_of, answers, comparisons, strict=True)
    ]


def decide(comparisons: Sequence[Comparison], judge: Judge | None) -> list[Comparison]:
    """Lets the judge decide what is undecided; each question that is not answered "equal" is wrong."""
    questions = [question for comparison in comparisons for question in comparison.questions()]
    if judge is None or not questions:
        return list(comparisons)
    reason_of = {pair: verdict.reason for pair, verdict in zip(questions, judge.verify(questions), strict=True)}
    return [comparison.decide(reason_of) for comparison in comparisons]


def _explanation(gold: str, prediction: str, comparison: Comparison) -> Explanation:
    parsed_gold, parsed_prediction = parse_answer(gold), parse_answer(prediction)
    return Explanation(
        kind=parsed_gold.kind,
        gold=str(parsed_gold),
        prediction=str(parsed_prediction),
        is_correct=comparison.is_correct,
        reason=comparison.reason,
    )
