"""The rewards of a batch of completions: every part of StepGRPO's reward, and where it was earned."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from r1vl_jax.rewards import on_device, strings
from r1vl_jax.rewards.bundles import StepReward
from r1vl_jax.rewards.math_verify import Judge
from r1vl_jax.rewards.records import gold_answer, key_step_groups
from r1vl_jax.rewards.strings import ParsedCompletion

_BACKENDS = ("reference", "kernels")


def score(
    completions: Sequence[str | bytes],
    records: Sequence[Mapping[str, Any]],
    *,
    semantics: str = "paper",
    backend: str = "reference",
    alpha: float = 0.1,
    judge: Judge | None = None,
) -> StepReward:
    """Rewards completions against the records of their questions.

    Args:
        completions: B texts, or their UTF-8 bytes; anything a model writes is allowed.
        records: one for each completion, with `answer` (or `solution`, which may hold a whole path) and `key_steps`, a
            list of groups of equivalent spellings (or `{"Steps": [...]}`); a bare string is a group of one.
        semantics: "paper" or "released", the two readings of StepGRPO's rewards; see `rewards.reference`.
        backend: "reference", or "kernels" for the same rewards computed on the device; what kernels leave undecided is
            scored by the reference.
        alpha: worth of all key steps together, the correct answer being 1.
        judge: asked about answers that a plain comparison does not settle; without one they stay undecided.

    Raises:
        ValueError: an unknown setting, records that do not fit the completions, or one without answer or key steps.
    """
    _check_settings(semantics, backend, len(completions), len(records))
    texts = [strings.to_bytes(completion) for completion in completions]
    if backend == "reference":
        return _score_by_reference(texts, records, semantics, alpha, judge)
    reward = on_device.score(texts, records, semantics=semantics, alpha=alpha)
    return resolve_undecided(
        reward, texts, records, partial(_score_by_reference, semantics=semantics, alpha=alpha, judge=judge)
    )


def resolve_undecided(
    reward: StepReward,
    completions: Sequence[bytes],
    records: Sequence[Mapping[str, Any]],
    score: Callable[[list[bytes], list[Any]], StepReward],
) -> StepReward:
    """Replaces what the kernels left undecided by what `score` says of those completions."""
    rows = np.flatnonzero(reward.undecided).tolist()
    if not rows:
        return reward
    rest = score([completions[row] for row in rows], [records[row] for row in rows])
    return on_device.replace_rows(reward, rows, rest)


def _score_by_reference(
    completions: list[bytes],
    records: Sequence[Mapping[str, Any]],
    semantics: str,
    alpha: float,
    judge: Judge | None,
) -> StepReward:
    readings = [
        strings.parse_completion(
            completion, gold_answer(record, row), key_step_groups(record, row), semantics=semantics
        )
        for row, (completion, record) in enumerate(zip(completions, records, strict=True))
    ]
    return _to_step_reward(readings, _verify_answers(readings, judge), alpha)


def _verify_answers(readings: list[ParsedCompletion], judge: Judge | None) -> list[bool | None]:
    """Whether each answer is correct, after the judge has been asked; None where nobody could tell."""
    verdicts = [reading.answer.is_correct for reading in readings]
    rows = [row for row, verdict in enumerate(verdicts) if verdict is None]
    if judge is not None and rows:
        questions = [_to_text(readings[row].answer.question) for row in rows]
        for row, verdict in zip(rows, judge.verify(questions), strict=True):
            verdicts[row] = verdict.is_correct
    return verdicts


def _to_step_reward(readings: list[ParsedCompletion], verdicts: list[bool | None], alpha: float) -> StepReward:
    def column(values: Iterable[Any], dtype: type) -> np.ndarray:
        return np.array(list(values), dtype)

    correct = column((verdict is True for verdict in verdicts), bool)
    match = column((len(r.sections_of_matches) / max(r.num_groups, 1) for r in readings), float)
    complete = column((r.is_complete for r in readings), bool)
    ordered = column((r.is_ordered for r in readings), bool)
    accuracy = np.where(column((r.answer.can_earn for r in readings), bool), correct + alpha * match, 0.0)
    validity = (complete & ordered).astype(float)
    section_end_BJ, section_reward_BJ = _assign_to_sections(readings, correct + validity, alpha)
    return StepReward(
        total=(accuracy + validity).astype(np.float32),
        step_accuracy=accuracy.astype(np.float32),
        step_validity=validity.astype(np.float32),
        answer_correct=correct,
        key_step_match=match.astype(np.float32),
        complete=complete,
        ordered=ordered,
        undecided=column((verdict is None for verdict in verdicts), bool),
        section_end_BJ=section_end_BJ,
        section_reward_BJ=section_reward_BJ,
    )


def _assign_to_sections(
    readings: list[ParsedCompletion], paid_at_end: Float[np.ndarray, " B"], alpha: float
) -> tuple[Int[np.ndarray, "B J"], Float[np.ndarray, "B J"]]:
    """Puts what was earned where it was earned: key steps in their sections, the rest in the last."""
    width = max((len(reading.section_ends) for reading in readings), default=1)
    section_end_BJ = np.full((len(readings), width), -1, np.int32)
    section_reward_BJ = np.zeros((len(readings), width), np.float32)
    for row, reading in enumerate(readings):
        count = len(reading.section_ends)
        section_end_BJ[row, :count] = reading.section_ends
        section_reward_BJ[row, count - 1] = paid_at_end[row]
        if reading.answer.can_earn:
            for section in reading.sections_of_matches:
                section_reward_BJ[row, section] += alpha / reading.num_groups
    return section_end_BJ, section_reward_BJ


def _check_settings(semantics: str, backend: str, num_completions: int, num_records: int) -> None:
    if semantics not in strings.SEMANTICS:
        raise ValueError(f"rewards.score: semantics={semantics!r}: expected one of {strings.SEMANTICS}")
    if backend not in _BACKENDS:
        raise ValueError(f"rewards.score: backend={backend!r}: expected one of {_BACKENDS}")
    if num_completions != num_records:
        raise ValueError(
            f"rewards.score: {num_completions} completions but {num_records} records; give each completion the record"
            " of its question"
        )


def _to_text(question: tuple[bytes, bytes]) -> tuple[str, str]:
    gold, prediction = (text.decode("utf-8", "replace") for text in question)
    return gold, prediction
