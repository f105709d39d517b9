"""The fields of a record that rewards use: its gold answers and its key steps."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from r1vl_jax.rewards import strings
from r1vl_jax.rewards.answers import reading
from r1vl_jax.rewards.key_steps import parse_key_steps


def gold_answers(record: Mapping[str, Any], row: int) -> list[bytes]:
    """The gold answers, each of which is right: of `answer`, or else `solution`, and then of `other_answers`.

    Raises:
        ValueError: the record has none, or others that are no texts; the message names the row.
    """
    others = record.get("other_answers")
    others = [] if others is None else others
    if (
        not isinstance(others, Iterable)
        or not all(isinstance(other, str) for other in others)
        or isinstance(others, str)
    ):
        raise ValueError(f"rewards.score: record {row}: other_answers: expected a list of texts, got {others!r:.80}")
    found = (reading.anywhere(strings.to_bytes(other)) for other in others)
    return [_gold_answer(record, row), *filter(None, found)]


def _gold_answer(record: Mapping[str, Any], row: int) -> bytes:
    text = record.get("answer") or record.get("solution")
    gold = reading.anywhere(strings.to_bytes(text)) if isinstance(text, str | bytes) else b""
    if not gold:
        raise ValueError(
            f"rewards.score: record {row} has no answer: expected text in `answer` or `solution`, got {text!r};"
            " leave the record out"
        )
    return gold


def key_step_groups(record: Mapping[str, Any], row: int) -> Sequence[strings.KeyStepGroup]:
    """The groups of key steps, in any layout of `parse_key_steps`; none if the record has none, or null.

    Raises:
        ValueError: they are in another layout; the message names the row.
    """
    key_steps = record.get("key_steps")
    try:
        return () if key_steps is None else parse_key_steps(key_steps)
    except ValueError as error:
        raise ValueError(f"rewards.score: record {row}: key_steps: {error}") from None
