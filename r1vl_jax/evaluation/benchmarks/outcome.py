"""What a scorer says of one response, and which part of a response is its answer."""

from collections.abc import Callable
from dataclasses import dataclass

from r1vl_jax import response_format
from r1vl_jax.evaluation.benchmarks.rules import Rules
from r1vl_jax.rewards.answers import Comparison

Row = dict[str, str]  # column -> cell, as text

_PHRASE = response_format.ANSWER.removeprefix("### ")
_EMPTY = Comparison(False, "no answer")


@dataclass(frozen=True)
class Outcome:
    """The answer that was read in a response, and whether it is right.

    Attributes:
        extracted: as it was compared; "" for none.
        comparison: undecided where only math-verify can say.
    """

    extracted: str
    comparison: Comparison


Scorer = Callable[[Row, str, Rules], Outcome]  # (row, text of the answer, rules)


def outcome(extracted: str, is_correct: bool, reason: str = "") -> Outcome:
    """A decided outcome; by default the reason is "equal" or "different"."""
    return Outcome(extracted, Comparison(is_correct, reason or ("equal" if is_correct else "different")))


def unreadable(reason: str) -> Outcome:
    """Of a response in which no answer was found, which is wrong."""
    return Outcome("", Comparison(False, reason))


def answer_text(response: str) -> str:
    """The part of a response that is scored, stripped.

    What follows the answer heading, if there is exactly one; without a heading what follows the last "The final
    answer is:"; else the whole response.
    """
    num_headings = response.count(response_format.ANSWER)
    if num_headings == 1:
        return response.partition(response_format.ANSWER)[2].strip()
    return response.rpartition(_PHRASE)[2].strip() if num_headings == 0 else response.strip()


def score_response(score: Scorer, row: Row, response: str, rules: Rules) -> Outcome:
    """Scores one response; an empty one, or one with an empty answer, is wrong under every rule."""
    text = answer_text(response)
    return score(row, text, rules) if text else Outcome("", _EMPTY)
