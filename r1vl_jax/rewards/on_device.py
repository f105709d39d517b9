"""Texts scored by the kernels: padded into arrays on the way there, cut to size on the way back."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, UInt8

from r1vl_jax.rewards.bundles import StepReward
from r1vl_jax.rewards.kernels import step_reward
from r1vl_jax.rewards.pack import pack, round_up

_MIN_BYTES = 64
_PADDING = {"section_end_BJ": -1, "section_reward_BJ": 0}

_step_reward = jax.jit(step_reward, static_argnames="semantics")


def score(
    completions: Sequence[bytes], records: Sequence[Mapping[str, Any]], *, semantics: str, alpha: float
) -> StepReward:
    """What the kernels say of completions; rows are as wide as the longest, rounded up so that few sizes occur."""
    key_steps, answers = pack(records, semantics=semantics)
    byte_BU, length_B = to_rows(completions)
    reward = _step_reward(byte_BU, length_B, key_steps, answers, semantics=semantics, alpha=alpha)
    return _trim(jax.tree.map(np.array, reward))


def to_rows(completions: Sequence[bytes]) -> tuple[UInt8[np.ndarray, "B U"], Int[np.ndarray, " B"]]:
    """Texts as rows of bytes, 0 behind the end of each; and their lengths."""
    length_B = np.array([len(completion) for completion in completions], np.int32)
    byte_BU = np.zeros((len(completions), max(round_up(max(length_B, default=0)), _MIN_BYTES)), np.uint8)
    for row, completion in enumerate(completions):
        byte_BU[row, : len(completion)] = np.frombuffer(completion, np.uint8)
    return byte_BU, length_B


def replace_rows(reward: StepReward, rows: list[int], rest: StepReward) -> StepReward:
    """Puts the rewards of some rows in their places."""
    width = max(reward.section_end_BJ.shape[1], rest.section_end_BJ.shape[1])
    columns = {}
    for field in fields(StepReward):
        column = _widen(getattr(reward, field.name), width, _PADDING.get(field.name))
        column[rows] = _widen(getattr(rest, field.name), width, _PADDING.get(field.name))
        columns[field.name] = column
    return StepReward(**columns)


def _widen(column: np.ndarray, width: int, padding: int | None) -> np.ndarray:
    """A copy, as wide as asked."""
    if padding is None:
        return np.array(column)
    return np.pad(column, ((0, 0), (0, width - column.shape[1])), constant_values=padding)


def _trim(reward: StepReward) -> StepReward:
    """Drops the sections that no decided row has."""
    is_used_BJ = (reward.section_end_BJ >= 0) & ~reward.undecided[:, None]
    width = max(1, np.max(np.sum(is_used_BJ, axis=1), initial=0))
    return replace(
        reward, section_end_BJ=reward.section_end_BJ[:, :width], section_reward_BJ=reward.section_reward_BJ[:, :width]
    )
