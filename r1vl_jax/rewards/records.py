"""The fields of a record that rewards use: its gold answer and its key steps."""

from collections.abc import Mapping, Sequence
from typing import Any

from r1vl_jax.rewards import answers, strings


def gold_answer(record: Mapping[str, Any], row: int) -> bytes:
    """The gold answer, from `answer` or else `solution`.

    Raises:
        ValueError: the record has none; the message names the row.
    """
    text = record.get("answer") or record.get("solution")
    gold = answers.gold_answer(strings.to_bytes(text)) if isinstance(text, str | bytes) else b""
    if not gold:
        raise ValueError(
            f"rewards.score: record {row} has no answer: expected text in `answer` or `solution`, got {text!r};"
            " leave the record out"
        )
    return gold


def key_step_groups(record: Mapping[str, Any], row: int) -> Sequence[strings.KeyStepGroup]:
    """The groups of key steps, given as a list or as `{"Steps": [...]}`.

    Raises:
        ValueError: the record has none; the message names the row.
    """
    key_steps = record.get("key_steps")
    groups = key_steps.get("Steps") if isinstance(key_steps, Mapping) else key_steps
    if groups is None or isinstance(groups, str):
        raise ValueError(
            f"rewards.score: record {row} has no key_steps: expected a list of groups, got {key_steps!r};"
            " give [] where there are none"
        )
    return groups
