"""Rollouts: prompts, completions, reference log-probs, rewards and advantages of the next updates."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Float, Key

from r1vl_jax import losses, observe
from r1vl_jax.arrays import Array, Completions, Params, PromptBatch, Rollout, TrainBatch, TrainRows
from r1vl_jax.data.collate import round_up
from r1vl_jax.data.process_shards import ProcessStream
from r1vl_jax.data.records import Record
from r1vl_jax.learner.advantages import GroupRewards, compute_advantages, compute_group_rewards
from r1vl_jax.learner.learner import Learner
from r1vl_jax.learner.logprobs import add_reference_logps
from r1vl_jax.rewards.weighted_sum import RewardOutput
from r1vl_jax.runtime import processes
from r1vl_jax.sampling.loop import sample
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.sampling.weight_sync import SyncedParams, synced_params
from r1vl_jax.training.data_loader import DataLoader
from r1vl_jax.training.dynamic_sampling import resample_zero_std_groups
from r1vl_jax.training.loop import step_key
from r1vl_jax.training.rewarder import Rewarder
from r1vl_jax.training.rollout_batch import (
    RolloutBatch,
    RolloutMetrics,
    concatenate_rows,
    pad_columns,
    split_rows,
    truncate_columns,
)


@dataclass(frozen=True)
class _Prompts:
    """Records of this process; their prompts, on the devices; and the tokens of these, padding excluded."""

    records: list[Record]
    batch: PromptBatch
    num_tokens: int


@dataclass(frozen=True)
class RolloutWorker:
    """Makes the batches of StepGRPO updates.

    Attributes:
        reference_params: the frozen reference; None where nothing needs it.
        stream: gives records and prompts.
        seed: with the step it determines the keys of sampling.
        completion_bucket: the width of completions rounds up to a multiple of this many tokens; 0 takes all columns.
    """

    learner: Learner
    sampler: Sampler
    rewarder: Rewarder
    reference_params: Params | None
    stream: ProcessStream
    loader: DataLoader
    timers: observe.Timers
    seed: int
    completion_bucket: int

    def generate(self, params: Params, step: int) -> list[tuple[RolloutBatch, RolloutMetrics, TrainBatch]]:
        """What one policy samples for the updates from `step` on: `steps_per_generation` batches."""
        loss = self.learner.loss
        keys = [step_key(self.seed, step + number) for number in range(loss.steps_per_generation)]
        batches = self._roll_out(params, keys)
        if loss.dynamic_sample:
            batches = [self._resample(params, batch, key) for batch, key in zip(batches, keys, strict=True)]
        with self.timers("reward"):
            metrics = [batch.compute_metrics() for batch in batches]  # before the update is dispatched: no waiting
            rows = self._compute_advantages(batches)
        train_batches = [
            TrainBatch(batch.prompts, truncate_columns(part, batch.num_columns), self._denominator(part, rows))
            for batch, part in zip(batches, split_rows(rows, len(batches)), strict=True)
        ]
        return list(zip(batches, metrics, train_batches, strict=True))

    def _roll_out(self, params: Params, keys: Sequence[Key[Array, ""]]) -> list[RolloutBatch]:
        """A batch for each key. The sampler's copy of the parameters is freed before log-probs are computed."""
        prompts = [self._next_prompts() for _ in keys]  # while devices are still busy with the last update
        with synced_params(self.sampler, params) as synced:
            rollouts = [self._sample(params, synced, each, key) for each, key in zip(prompts, keys, strict=True)]
        return [self._add_logps_and_rewards(params, *pair) for pair in zip(prompts, rollouts, strict=True)]

    def _next_prompts(self) -> _Prompts:
        """The next prompts, which go to the devices here and nowhere else."""
        with self.timers("data"):
            records, prompts = next(self.stream)
            return _Prompts(records, self.loader.shard_batch(prompts), int(prompts.mask_PS.sum()))

    def _sample(self, params: Params, synced: SyncedParams, prompts: _Prompts, key: Key[Array, ""]) -> Rollout:
        with self.timers("gen"):
            return jax.block_until_ready(sample(self.sampler, params, prompts.batch, key, synced=synced))

    def _add_logps_and_rewards(self, params: Params, prompts: _Prompts, rollout: Rollout) -> RolloutBatch:
        """Reference log-probs on the devices, and rewards on the host meanwhile."""
        num_columns = _completion_bucket(rollout.completions, self.completion_bucket)
        with self.timers("ref"):  # dispatched only: the devices compute while the host computes rewards
            sampled = add_reference_logps(
                self.learner, params, self.reference_params, prompts.batch, truncate_columns(rollout, num_columns)
            )
        with self.timers("reward"):
            completions, has_ended_B = self.loader.process_local_rows((rollout.completions, rollout.has_ended_B))
            rewards = self.rewarder(completions, prompts.records)
            group_rewards = self._group_rewards(rewards, completions, num_groups=len(prompts.records))
        # Only now: with several CPU devices, dispatching this waits for the log-probs.
        sampled = pad_columns(sampled, rollout.completions.token_BT.shape[1])
        return RolloutBatch(
            records=prompts.records,
            prompts=prompts.batch,
            sampled=sampled,
            completions=completions,
            has_ended_B=has_ended_B,
            rewards=rewards,
            group_rewards=group_rewards,
            num_prompt_tokens=prompts.num_tokens,
            num_columns=num_columns,
        )

    def _group_rewards(self, rewards: RewardOutput, completions: Completions, *, num_groups: int) -> GroupRewards:
        num_sections = 0
        if self.learner.loss.credit == "step":  # sections of one width in all processes
            (num_sections,) = processes.all_reduce_max(rewards.reward.section_end_BJ.shape[1:])
        return jax.device_get(
            compute_group_rewards(
                self.learner.loss,
                self.rewarder.spec,
                rewards,
                completions,
                self.rewarder.vocabulary,
                num_generations=len(completions.token_BT) // num_groups,
                num_sections=num_sections,
            )
        )

    def _resample(self, params: Params, first: RolloutBatch, key: Key[Array, ""]) -> RolloutBatch:
        def sample_batch(number: int) -> RolloutBatch:
            (batch,) = self._roll_out(params, [jax.random.fold_in(key, number)])
            return batch

        return resample_zero_std_groups(
            first, sample_batch, self.loader, max_resample_times=self.learner.loss.max_resample_times
        )

    def _compute_advantages(self, batches: Sequence[RolloutBatch]) -> TrainRows:
        sampled = concatenate_rows([batch.sampled for batch in batches])
        rewards = concatenate_rows([self.loader.shard_batch(batch.group_rewards) for batch in batches])
        return compute_advantages(self.learner.loss, sampled, rewards)

    def _denominator(self, rows_of_update: TrainRows, rows_of_generation: TrainRows) -> Float[Array, ""]:
        loss_type = self.learner.loss.loss_type
        rows = rows_of_generation if loss_type in losses.OVER_GENERATION else rows_of_update
        mask_BT = rows.completions.mask_BT
        return losses.denominator(mask_BT, loss_type=loss_type, max_completion_length=mask_BT.shape[1])


def _completion_bucket(completions: Completions, bucket: int) -> int:
    """The least multiple of `bucket` that holds the longest completion of all processes; all columns if it is 0."""
    length = completions.mask_BT.shape[1]
    if bucket == 0:
        return length
    longest = int(jnp.max(jnp.sum(completions.mask_BT, axis=1)))
    return min(round_up(max(longest, 1), bucket), length)
