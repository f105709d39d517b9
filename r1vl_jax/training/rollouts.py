"""A generation: prompts are drawn, completions sampled, scored and rewarded; then compared and split into updates."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Key

from r1vl_jax import losses
from r1vl_jax.arrays import (
    Array,
    Completions,
    Params,
    PromptBatch,
    RewardSections,
    Rollout,
    SampledRows,
    TrainBatch,
    TrainRows,
    bundle,
)
from r1vl_jax.data.process_shards import ProcessStream
from r1vl_jax.data.records import Record
from r1vl_jax.learner.advantages import apply_overlong_penalty, compute_advantages
from r1vl_jax.learner.learner import Learner
from r1vl_jax.learner.logprobs import add_reference_logps
from r1vl_jax.rewards.text import token_sizes
from r1vl_jax.rewards.weighted_sum import RewardOutput, assign_rewards_to_sections
from r1vl_jax.runtime import processes
from r1vl_jax.sampling.loop import sample
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.sampling.weight_sync import SyncedParams, synced_params
from r1vl_jax.training.loop import Run
from r1vl_jax.training.metrics import completion_metrics, measure, reward_metrics


@dataclass(frozen=True)
class RolloutMetrics:
    """What is recorded of a draw.

    Attributes:
        num_tokens: of prompts and completions.
    """

    metrics: dict[str, float]
    num_tokens: int


@dataclass(frozen=True)
class RolloutBatch:
    """Prompts of this process, G completions of each, and what these earned.

    Attributes:
        sampled: completions of all processes, on the devices.
        completions, has_ended_B: the rows of `sampled` that this process's prompts gave.
        reward_PG: the total that is compared, penalties included.
        width: columns that hold every completion; those behind them are outside all masks.
        num_draws: how often prompts were drawn, until groups of equal rewards were replaced.
    """

    records: list[Record]
    prompts: PromptBatch
    sampled: SampledRows
    completions: Completions
    has_ended_B: Bool[Array, " B"]
    rewards: RewardOutput
    reward_PG: Float[np.ndarray, "P G"]
    width: int
    num_draws: int = 1

    def compute_metrics(self) -> RolloutMetrics:
        """Counts and rewards over the draws of all processes, which must all call this."""
        own = (self.rewards, self.reward_PG, measure(self.completions, self.has_ended_B), self.prompts.mask_PS.sum())
        earned, rewards, measured, num_prompt_tokens = zip(
            *processes.all_gather_objects(jax.device_get(own)), strict=True
        )
        measured = _concatenate(measured)
        metrics = reward_metrics(_concatenate(earned), np.concatenate(rewards)) | completion_metrics(measured)
        num_tokens = int(sum(num_prompt_tokens) + measured.length_B.sum())
        return RolloutMetrics(metrics | {"sampling/num_draws": float(self.num_draws)}, num_tokens)


@dataclass(frozen=True)
class RolloutWorker:
    """What draws and samples.

    Attributes:
        reference_params: the frozen reference; None where nothing needs it.
    """

    run: Run
    learner: Learner
    sampler: Sampler
    reference_params: Params | None
    stream: ProcessStream

    def generate(self, params: Params, step: int) -> list[tuple[RolloutBatch, RolloutMetrics, TrainBatch]]:
        """What one policy samples for the updates from `step` on: `steps_per_generation` batches."""
        steps = range(step, step + self.learner.loss.steps_per_generation)
        keys = [self.run.key(step) for step in steps]
        draws = self._draw(params, keys)
        if self.learner.loss.dynamic_sample:
            draws = [self._with_spread(params, draw, key) for draw, key in zip(draws, keys, strict=True)]
        with self.run.timers("reward"):
            figures = [draw.compute_metrics() for draw in draws]  # now, for later they would wait for the update
            rows = self._compare(draws)
        batches = [
            TrainBatch(draw.prompts, _truncate_columns(part, draw.width), self._denominator(part, rows))
            for draw, part in zip(draws, _split(rows, len(draws)), strict=True)
        ]
        return list(zip(draws, figures, batches, strict=True))

    def _draw(self, params: Params, keys: Sequence[Key[Array, ""]]) -> list[RolloutBatch]:
        """A draw for each key. The sampler's copy of the parameters is gone before anything is scored."""
        asked = [self._prompts() for _ in keys]  # while devices are still at the update before
        with synced_params(self.sampler, params) as copy:
            rollouts = [
                self._sample(params, copy, divided, key) for (_, _, divided), key in zip(asked, keys, strict=True)
            ]
        return [self._earned(params, *of_asked, rollout) for of_asked, rollout in zip(asked, rollouts, strict=True)]

    def _prompts(self) -> tuple[list[Record], PromptBatch, PromptBatch]:
        """Records, and their prompts on the host and on the devices."""
        with self.run.timers("data"):
            records, prompts = next(self.stream)
            return records, prompts, self.run.components.shard_batch(prompts)

    def _sample(self, params: Params, copy: SyncedParams, divided: PromptBatch, key: Key[Array, ""]) -> Rollout:
        with self.run.timers("gen"):
            return jax.block_until_ready(sample(self.sampler, params, divided, key, copy=copy))

    def _earned(
        self, params: Params, records: list[Record], prompts: PromptBatch, divided: PromptBatch, rollout: Rollout
    ) -> RolloutBatch:
        """What the completions earned, and what an update needs to know of them."""
        timers, length = self.run.timers, rollout.completions.token_BT.shape[1]
        width = _completion_bucket(rollout.completions, self.run.config.train.completion_bucket)
        with timers("ref"):  # dispatched only: the device computes while the host scores
            sampled = add_reference_logps(
                self.learner, params, self.reference_params, divided, _truncate_columns(rollout, width)
            )
        with timers("reward"):
            completions, has_ended_B = self.run.components.process_local_rows(
                (rollout.completions, rollout.has_ended_B)
            )
            earned = self.run.rewarder(completions, records)
            total_B = np.asarray(apply_overlong_penalty(self.learner.loss, earned.total_B, completions))
        reward_PG = total_B.reshape(len(records), -1)
        sampled = _pad_columns(sampled, length)  # only now: where there are several devices, it waits for the scores
        return RolloutBatch(records, prompts, sampled, completions, has_ended_B, earned, reward_PG, width)

    def _with_spread(self, params: Params, first: RolloutBatch, key: Key[Array, ""]) -> RolloutBatch:
        """Draws again for groups whose rewards are all equal."""
        draws = [first]
        while self._lack_spread(draws) and len(draws) <= self.learner.loss.max_resample_times:
            draws += self._draw(params, [jax.random.fold_in(key, len(draws))])
        return first if len(draws) == 1 else self._best_of(draws)

    def _lack_spread(self, draws: Sequence[RolloutBatch]) -> bool:
        """Whether fewer groups than one draw of all processes has are of use."""
        num_missing = len(draws[0].records) - sum(int(_has_spread(draw.reward_PG).sum()) for draw in draws)
        return sum(processes.all_gather_objects(num_missing)) > 0

    def _best_of(self, draws: Sequence[RolloutBatch]) -> RolloutBatch:
        """As many prompts as one draw has: those with spread first, then those without, in the order drawn.

        Every process looks at the draws of all, and takes its share of the prompts.
        """
        parts = self.run.components
        own = [(draw.records, parts.process_local_rows(draw.sampled), draw.rewards, draw.reward_PG) for draw in draws]
        together = zip(
            *processes.all_gather_objects(jax.device_get(own)), strict=True
        )  # draw by draw, those of all processes
        records, sampled, earned, rewards = zip(*itertools.chain(*together), strict=True)
        reward_PG = np.concatenate(rewards)
        num_prompts, num_generations = draws[0].reward_PG.shape
        # Groups in the order in which one process would have drawn them.
        drawn = np.arange(len(reward_PG)).reshape(len(draws), processes.count(), num_prompts).swapaxes(1, 2).reshape(-1)
        best = drawn[np.argsort(~_has_spread(reward_PG[drawn]), kind="stable")]
        groups = best[: num_prompts * processes.count()][processes.index() :: processes.count()]
        rows = (groups[:, None] * num_generations + np.arange(num_generations)).reshape(-1)
        sampled, earned = jax.tree.map(lambda leaf: leaf[rows], (_concatenate(sampled), _concatenate(earned)))
        drawn_records = list(itertools.chain(*records))
        with self.run.timers("data"):
            prompts = parts.batch([parts.encoder.prompt(drawn_records[group]) for group in groups])
        return RolloutBatch(
            records=[drawn_records[group] for group in groups],
            prompts=prompts,
            sampled=parts.shard_batch(sampled),
            completions=sampled.completions,
            has_ended_B=sampled.has_ended_B,
            rewards=earned,
            reward_PG=reward_PG[groups],
            width=max(draw.width for draw in draws),
            num_draws=len(draws),
        )

    def _compare(self, draws: Sequence[RolloutBatch]) -> TrainRows:
        sampled = _concatenate([draw.sampled for draw in draws])
        rewards = _concatenate([self.run.components.shard_batch(self._to_compare(draw)) for draw in draws])
        return compute_advantages(self.learner.loss, sampled, rewards.reward_PG, rewards.sections)

    def _to_compare(self, draw: RolloutBatch) -> "GroupRewards":
        sections = None
        if self.learner.loss.credit == "step":
            reward, (accuracy_weight, _) = draw.rewards.reward, self.run.config.reward.reward_weights
            size_BT = token_sizes(np.asarray(draw.completions.token_BT), self.run.rewarder.vocabulary)
            (num_sections,) = processes.all_reduce_max(reward.section_end_BJ.shape[1:])
            sections = assign_rewards_to_sections(
                reward, draw.reward_PG.reshape(-1), accuracy_weight, size_BT, num_sections=num_sections
            )
        return GroupRewards(draw.reward_PG.astype(np.float32), sections)

    def _denominator(self, rows_of_update: TrainRows, rows_of_generation: TrainRows) -> Float[Array, ""]:
        loss_type = self.learner.loss.loss_type
        rows = rows_of_generation if loss_type in losses.OVER_GENERATION else rows_of_update
        mask_BT = rows.completions.mask_BT
        return losses.denominator(mask_BT, loss_type=loss_type, max_completion_length=mask_BT.shape[1])


@bundle
class GroupRewards:
    """What the samples of each prompt earned, and in which sections."""

    reward_PG: Float[Array, "P G"]
    sections: RewardSections | None


def _has_spread(reward_PG: Float[np.ndarray, "P G"]) -> Bool[np.ndarray, " P"]:
    return np.ptp(reward_PG, axis=1) > 0


def _completion_bucket(completions: Completions, bucket: int) -> int:
    """The least multiple of `bucket` that holds the longest completion of all processes; all columns if it is 0."""
    length = completions.mask_BT.shape[1]
    if bucket == 0:
        return length
    longest = int(jnp.max(jnp.sum(completions.mask_BT, axis=1)))
    return min(-(-max(longest, 1) // bucket) * bucket, length)


def _truncate_columns(bundle: Any, width: int) -> Any:
    """The first columns of every array that has more."""
    return jax.tree.map(lambda leaf: leaf[:, :width] if leaf.ndim == 2 and leaf.shape[1] > width else leaf, bundle)


def _pad_columns(bundle: Any, width: int) -> Any:
    """The opposite of `_narrowed`, with 0 and False in the new columns."""

    def widen(leaf: Array) -> Array:
        has_fewer = leaf.ndim == 2 and leaf.shape[1] < width
        return jnp.pad(leaf, ((0, 0), (0, width - leaf.shape[1]))) if has_fewer else leaf

    return jax.tree.map(widen, bundle)


def _concatenate(bundles: Sequence[Any]) -> Any:
    """Rows of several bundles below each other; sections that some lack are -1 (their ends) or 0 (what they earned)."""
    if len(bundles) == 1:
        return bundles[0]

    def join(*parts: Any) -> Any:
        library = np if isinstance(parts[0], np.ndarray) else jnp
        if parts[0].ndim == 1:
            return library.concatenate(parts)
        width = max(part.shape[1] for part in parts)
        fill = -1 if parts[0].dtype.kind == "i" else 0
        padded = [library.pad(p, ((0, 0), (0, width - p.shape[1])), constant_values=fill) for p in parts]
        return library.concatenate(padded)

    return jax.tree.map(join, *bundles)


def _split(rows: TrainRows, num_parts: int) -> list[TrainRows]:
    """Equal parts of the rows, in order."""
    if num_parts == 1:
        return [rows]
    size = rows.advantage_BT.shape[0] // num_parts
    return [jax.tree.map(lambda leaf, i=i: leaf[i * size : (i + 1) * size], rows) for i in range(num_parts)]
