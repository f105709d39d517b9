"""Scores texts by the kernels: pads them into arrays, and trims the result."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, UInt8

from r1vl_jax.rewards.bundles import StepReward
from r1vl_jax.rewards.kernels import step_reward
from r1vl_jax.rewards.pack import next_power_of_two, pack

_MIN_BYTES = 64
_PADDING = {"section_end_BJ": -1, "section_reward_BJ": 0}

_step_reward = jax.jit(step_reward, static_argnames="semantics")


def score(
    completions: Sequence[bytes], records: Sequence[Mapping[str, Any]], *, semantics: str, alpha: float
) -> StepReward:
    """Scores completions by the kernels; rows are padded to a power of two, so that few programs are compiled."""
    key_steps, answers = pack(records, semantics=semantics)
    byte_BU, length_B = to_rows(completions)
    reward = _step_reward(byte_BU, length_B, key_steps, answers, semantics=semantics, alpha=alpha)
    return _trim(jax.tree.map(np.array, reward))


def to_rows(completions: Sequence[bytes]) -> tuple[UInt8[np.ndarray, "B U"], Int[np.ndarray, " B"]]:
    """Texts as rows of bytes, padded with 0, and their lengths."""
    length_B = np.array([len(completion) for completion in completions], np.int32)
    byte_BU = np.zeros((len(completions), max(next_power_of_two(max(length_B, default=0)), _MIN_BYTES)), np.uint8)
    for row, completion in enumerate(completions):
        byte_BU[row, : len(completion)] = np.frombuffer(completion, np.uint8)
    return byte_BU, length_B


def replace_rows(reward: StepReward, rows: list[int], rest: StepReward) -> StepReward:
    """A copy of `reward` with some rows replaced by those of `rest`."""
    num_sections = max(reward.section_end_BJ.shape[1], rest.section_end_BJ.shape[1])
    columns = {}
    for field in fields(StepReward):
        column = _pad_sections(getattr(reward, field.name), num_sections, _PADDING.get(field.name))
        column[rows] = _pad_sections(getattr(rest, field.name), num_sections, _PADDING.get(field.name))
        columns[field.name] = column
    return StepReward(**columns)


def _pad_sections(column: np.ndarray, num_sections: int, padding: int | None) -> np.ndarray:
    """A copy, padded to a number of sections; columns without that axis, whose padding is None, keep their shape."""
    if padding is None:
        return np.array(column)
    return np.pad(column, ((0, 0), (0, num_sections - column.shape[1])), constant_values=padding)


def _trim(reward: StepReward) -> StepReward:
    """Drops trailing sections that no decided row has."""
    is_used_BJ = (reward.section_end_BJ >= 0) & ~reward.undecided[:, None]
    num_sections = max(1, np.max(np.sum(is_used_BJ, axis=1), initial=0))
    return replace(
        reward,
        section_end_BJ=reward.section_end_BJ[:, :num_sections],
        section_reward_BJ=reward.section_reward_BJ[:, :num_sections],
    )
