"""The rewards of a batch of completions: every part of StepGRPO's reward, and the section it belongs to."""

import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from r1vl_jax.rewards import on_device, strings
from r1vl_jax.rewards.answers import reading
from r1vl_jax.rewards.bundles import StepReward
from r1vl_jax.rewards.explain import decide
from r1vl_jax.rewards.math_verify import Judge
from r1vl_jax.rewards.records import gold_answers, key_step_groups
from r1vl_jax.rewards.strings import ParsedCompletion

_BACKENDS = ("strings", "kernels")


def score(
    completions: Sequence[str | bytes],
    records: Sequence[Mapping[str, Any]],
    *,
    semantics: str = "paper",
    backend: str = "strings",
    alpha: float = 0.1,
    judge: Judge | None = None,
) -> StepReward:
    """Rewards completions against the records of their questions.

    Args:
        completions: B texts, or their UTF-8 bytes; any text is accepted.
        records: one for each completion, with `answer` (or `solution`, which may hold a whole response), perhaps
            `other_answers`, a list of texts of which each is right, too, and
            `key_steps`, a list of groups of equivalent spellings (or `{"Steps": [...]}`); a bare string is a group of
            one. Without key steps their matched fraction k is 0.
        semantics: "paper" or "released", the two variants of the reward definition; see `rewards.strings`.
        backend: "strings", the readable definition, or "kernels", the same rewards computed on the device; what the
            kernels leave undecided is scored on strings.
        alpha: weight of the matched fraction of key steps in StepRAR; a correct answer counts 1.
        judge: decides answers that the exact comparison does not; without one they stay undecided.

    Raises:
        ValueError: an unknown setting, records that do not fit the completions, or one without an answer or with
            unreadable key steps.
    """
    _check_settings(semantics, backend, len(completions), len(records))
    texts = [strings.to_bytes(completion) for completion in completions]
    if backend == "strings":
        return _score_strings(texts, records, semantics, alpha, judge)
    reward = on_device.score(texts, records, semantics=semantics, alpha=alpha)
    return resolve_undecided(
        reward, texts, records, partial(_score_strings, semantics=semantics, alpha=alpha, judge=judge)
    )


def resolve_undecided(
    reward: StepReward,
    completions: Sequence[bytes],
    records: Sequence[Mapping[str, Any]],
    score: Callable[[list[bytes], list[Any]], StepReward],
) -> StepReward:
    """Replaces the rows that the kernels left undecided by what `score` returns for them."""
    rows = np.flatnonzero(reward.undecided).tolist()
    if not rows:
        return reward
    rest = score([completions[row] for row in rows], [records[row] for row in rows])
    return on_device.replace_rows(reward, rows, rest)


def _score_strings(
    completions: list[bytes],
    records: Sequence[Mapping[str, Any]],
    semantics: str,
    alpha: float,
    judge: Judge | None,
) -> StepReward:
    if any(reading.answer_element(completion) is not None for completion in completions):
        _say_that_elements_have_no_validity()
    parsed = [
        strings.parse_completion(
            completion, gold_answers(record, row), key_step_groups(record, row), semantics=semantics
        )
        for row, (completion, record) in enumerate(zip(completions, records, strict=True))
    ]
    return _to_step_reward(parsed, _verify_answers(parsed, judge), alpha)


@functools.cache  # once a process
def _say_that_elements_have_no_validity() -> None:
    logging.getLogger(__name__).warning(
        "a completion has its answer in an <answer> element: StepRVR, which looks for the headings of"
        " r1vl_jax.response_format, is 0 for such texts"
    )


def _verify_answers(parsed: list[ParsedCompletion], judge: Judge | None) -> list[bool | None]:
    """Whether each answer is correct; None where neither the comparison nor the judge decides."""
    comparisons = [completion.answer.comparison for completion in parsed]
    return [comparison.is_correct for comparison in decide(comparisons, judge)]


def _to_step_reward(parsed: list[ParsedCompletion], is_correct: list[bool | None], alpha: float) -> StepReward:
    def column(values: Iterable[Any], dtype: type) -> np.ndarray:
        return np.array(list(values), dtype)

    correct = column((verdict is True for verdict in is_correct), bool)
    match = column((len(p.match_sections) / max(p.num_groups, 1) for p in parsed), float)
    complete = column((p.is_complete for p in parsed), bool)
    ordered = column((p.is_ordered for p in parsed), bool)
    accuracy = np.where(column((p.answer.is_eligible for p in parsed), bool), correct + alpha * match, 0.0)
    validity = (complete & ordered).astype(float)
    section_end_BJ, section_reward_BJ = _assign_to_sections(parsed, correct + validity, alpha)
    return StepReward(
        total=(accuracy + validity).astype(np.float32),
        step_accuracy=accuracy.astype(np.float32),
        step_validity=validity.astype(np.float32),
        answer_correct=correct,
        key_step_match=match.astype(np.float32),
        complete=complete,
        ordered=ordered,
        undecided=column((verdict is None for verdict in is_correct), bool),
        section_end_BJ=section_end_BJ,
        section_reward_BJ=section_reward_BJ,
    )


def _assign_to_sections(
    parsed: list[ParsedCompletion], last_section_reward: Float[np.ndarray, " B"], alpha: float
) -> tuple[Int[np.ndarray, "B J"], Float[np.ndarray, "B J"]]:
    """Adds each key-step match to the section of the match, and all other reward to the last section."""
    max_sections = max((len(completion.section_ends) for completion in parsed), default=1)
    section_end_BJ = np.full((len(parsed), max_sections), -1, np.int32)
    section_reward_BJ = np.zeros((len(parsed), max_sections), np.float32)
    for row, completion in enumerate(parsed):
        num_sections = len(completion.section_ends)
        section_end_BJ[row, :num_sections] = completion.section_ends
        section_reward_BJ[row, num_sections - 1] = last_section_reward[row]
        if completion.answer.is_eligible:
            for section in completion.match_sections:
                section_reward_BJ[row, section] += alpha / completion.num_groups
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
