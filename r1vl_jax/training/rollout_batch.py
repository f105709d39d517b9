"""Prompts of an update with their sampled completions and rewards, and operations on such rows."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from r1vl_jax.arrays import Array, Completions, PromptBatch, SampledRows
from r1vl_jax.data.records import Record
from r1vl_jax.learner.advantages import GroupRewards
from r1vl_jax.rewards.weighted_sum import RewardOutput
from r1vl_jax.runtime import processes
from r1vl_jax.training.metrics import completion_metrics, completion_stats, episode_metrics, reward_metrics


@dataclass(frozen=True)
class RolloutMetrics:
    """What is logged of a rollout batch.

    Attributes:
        num_tokens: of prompts and completions of all processes.
    """

    metrics: dict[str, float]
    num_tokens: int


@dataclass(frozen=True)
class TurnRows:
    """The turns of this process's episodes, which are rows of their own.

    Attributes:
        completions, has_ended_B: of each turn, on the host.
        episode_B: the episode of each turn, a row of `RolloutBatch.completions`.
        shown: gives of each episode what each turn was given and what was written, for readers.
        ended: why each episode ended.
        metrics: of each episode, as the rollout function gives them.
    """

    completions: Completions
    has_ended_B: Bool[np.ndarray, " B"]
    episode_B: Int[np.ndarray, " B"]
    shown: Callable[[], list[list[tuple[str, str]]]]
    ended: list[str]
    metrics: list[Mapping[str, float]]


@dataclass(frozen=True)
class RolloutBatch:
    """P prompts, G completions of each, and their rewards.

    `prompts` and `sampled` are on the devices and hold those of all processes; all else is this process's, on the host.

    Attributes:
        completions, has_ended_B: this process's rows of `sampled`.
        rewards: before the overlong penalty.
        group_rewards: what is compared within groups.
        num_prompt_tokens: padding excluded.
        num_columns: hold every completion; later columns are outside all masks.
        num_rollouts: batches sampled for this one: more than 1 if zero-std groups were resampled.
        turns: of rollouts of several turns: the rows of `sampled` and `prompts` are then these turns, and `completions`
            has the last turn of each episode; None where a completion is all there is.
    """

    records: list[Record]
    prompts: PromptBatch
    sampled: SampledRows
    completions: Completions
    has_ended_B: Bool[Array, " B"]
    rewards: RewardOutput
    group_rewards: GroupRewards
    num_prompt_tokens: int
    num_columns: int
    num_rollouts: int = 1
    turns: TurnRows | None = None

    @property
    def reward_PG(self) -> Float[np.ndarray, "P G"]:
        """Total rewards, overlong penalty included."""
        return self.group_rewards.reward_PG

    def compute_metrics(self) -> RolloutMetrics:
        """Means over the rollouts of all processes, which must all call this."""
        counted = self.turns or self
        stats = completion_stats(counted.completions, counted.has_ended_B)
        episodes = (self.turns.ended, self.turns.metrics) if self.turns else ([], [])
        own = jax.device_get((self.rewards, self.reward_PG, stats, self.num_prompt_tokens))
        gathered = processes.all_gather_objects((*own, *episodes))
        rewards, totals, stats, num_prompt_tokens, ended, of_episodes = zip(*gathered, strict=True)
        stats = concatenate_rows(stats)
        metrics = reward_metrics(concatenate_rows(rewards), np.concatenate(totals)) | completion_metrics(stats)
        num_tokens = int(sum(num_prompt_tokens) + stats.length_B.sum())
        metrics |= {"sampling/num_rollouts": float(self.num_rollouts)}
        if self.turns:
            ended, of_episodes = (list(itertools.chain(*each)) for each in (ended, of_episodes))
            metrics |= episode_metrics(ended, of_episodes, num_turns=len(stats.length_B))
        return RolloutMetrics(metrics, num_tokens)

    def mean_advantages(self, advantage_BT: Float[np.ndarray, "B T"]) -> Float[np.ndarray, " B"]:
        """The mean advantage of the tokens of each row of `completions`, or of the episode that it ends.

        Args:
            advantage_BT: of this process's rows of `sampled`; columns that are absent are all padding.
        """
        counted = self.turns or self
        mask_BT = np.asarray(counted.completions.mask_BT)
        num_columns = min(mask_BT.shape[1], advantage_BT.shape[1])
        mask_BT, advantage_BT = mask_BT[:, :num_columns], advantage_BT[: len(mask_BT), :num_columns]
        sum_B, num_B = (advantage_BT * mask_BT).sum(axis=1, dtype=np.float64), mask_BT.sum(axis=1)
        if self.turns:
            sum_B, num_B = (
                np.bincount(self.turns.episode_B, each, len(self.completions.mask_BT)) for each in (sum_B, num_B)
            )
        return sum_B / np.maximum(num_B, 1)


def concatenate_rows(bundles: Sequence[Any]) -> Any:
    """Rows of several bundles as one; narrower arrays are padded with -1 (integers) or 0, as absent sections are."""
    if len(bundles) == 1:
        return bundles[0]

    def concatenate(*parts: Any) -> Any:
        library = np if isinstance(parts[0], np.ndarray) else jnp
        if parts[0].ndim == 1:
            return library.concatenate(parts)
        width = max(part.shape[1] for part in parts)
        fill = -1 if parts[0].dtype.kind == "i" else 0
        padded = [library.pad(p, ((0, 0), (0, width - p.shape[1])), constant_values=fill) for p in parts]
        return library.concatenate(padded)

    return jax.tree.map(concatenate, *bundles)


def split_rows(bundle: Any, num_parts: int) -> list[Any]:
    """Equal parts of the rows, in order."""
    if num_parts == 1:
        return [bundle]
    size = len(jax.tree.leaves(bundle)[0]) // num_parts
    return [jax.tree.map(lambda leaf, i=i: leaf[i * size : (i + 1) * size], bundle) for i in range(num_parts)]


def truncate_columns(bundle: Any, num_columns: int) -> Any:
    """The first columns of every [B, T] array that has more."""
    return jax.tree.map(
        lambda leaf: leaf[:, :num_columns] if leaf.ndim == 2 and leaf.shape[1] > num_columns else leaf, bundle
    )


def pad_columns(bundle: Any, num_columns: int) -> Any:
    """Pads every narrower [B, T] array with 0 and False; undoes `truncate_columns`."""

    def pad(leaf: Array) -> Array:
        is_narrower = leaf.ndim == 2 and leaf.shape[1] < num_columns
        return jnp.pad(leaf, ((0, 0), (0, num_columns - leaf.shape[1]))) if is_narrower else leaf

    return jax.tree.map(pad, bundle)
