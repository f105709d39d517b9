"""Makes the batches of StepGRPO updates from episodes: each turn is a row, with an advantage from its episode."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from r1vl_jax import losses, observe
from r1vl_jax.arrays import Array, Completions, Params, Rollout, TrainBatch, TrainRows, bundle
from r1vl_jax.data.collate import pad_rows, round_up
from r1vl_jax.data.process_shards import ProcessStream
from r1vl_jax.data.records import Record
from r1vl_jax.learner.advantages import GroupRewards, make_train_rows, turn_advantages
from r1vl_jax.learner.learner import Learner
from r1vl_jax.learner.logprobs import add_reference_logps
from r1vl_jax.rewards.user_code import describe
from r1vl_jax.runtime import processes
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.sampling.weight_sync import synced_params
from r1vl_jax.training.data_loader import DataLoader
from r1vl_jax.training.loop import step_key
from r1vl_jax.training.multi_turn.episode import (
    Episode,
    RolloutFunctionError,
    Turn,
    check_episodes,
    shown,
)
from r1vl_jax.training.multi_turn.policy import FILLER, Policy, RolloutFunction
from r1vl_jax.training.rewarder import Rewarder
from r1vl_jax.training.rollout_batch import RolloutBatch, RolloutMetrics, TurnRows

_OVER_ROWS = ("grpo", "dr_grpo")  # loss types that are averaged over rows


@bundle
class _TurnBatch:
    """Turns as rows of one batch, padded at the end with rows outside all masks."""

    rollout: Rollout
    advantage_BT: Float[Array, "B T"]


@dataclass(frozen=True)
class EpisodeWorker:
    """Makes a batch for each update; the counterpart of `RolloutWorker` for rollouts of several turns.

    Attributes:
        name, function: of the rollout function.
        sampler: that of training; its number of generations is that of episodes of a record.
        reference_params, stream, seed, completion_bucket: as in `RolloutWorker`.
    """

    name: str
    function: RolloutFunction
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
        """What the policy samples for the update of this step, in a list of one."""
        with self.timers("data"):
            records, _ = next(self.stream)
        with self.timers("gen"):
            episodes = self._roll_out(params, records, step)
        turns = [turn for episode in episodes for turn in episode.turns]
        with self.timers("reward"):
            completions, has_ended_B = self._last_turns(episodes)
            rewards = self.rewarder(completions, records)
            end_reward_PG = rewards.total_B.reshape(len(records), -1)
            advantages = self._advantages(end_reward_PG, [episode.reward_of_turns() for episode in episodes])
        with self.timers("ref"):
            num_rows, length = self._shape(turns, multiple=len(episodes))
            host = _collate_turns(turns, advantages, num_rows, length)
            prompts = [*(turn.prompt for turn in turns), *[FILLER] * (num_rows - len(turns))]
            on_devices, prompts = self.loader.shard_batch(host), self.loader.shard_batch(self.loader.collate(prompts))
            sampled = add_reference_logps(self.learner, params, self.reference_params, prompts, on_devices.rollout)
            rows = make_train_rows(self.learner.loss, sampled, on_devices.advantage_BT)
        turn_rewards_B = np.array([sum(episode.turn_rewards) for episode in episodes], np.float32)
        batch = RolloutBatch(
            records=list(records),
            prompts=prompts,
            sampled=sampled,
            completions=completions,
            has_ended_B=has_ended_B,
            rewards=rewards,
            group_rewards=GroupRewards(end_reward_PG + turn_rewards_B.reshape(end_reward_PG.shape), None),
            num_prompt_tokens=sum(len(turn.prompt.token_S) for turn in turns),
            num_columns=length,
            turns=self._turn_rows(episodes, host.rollout),
        )
        return [(batch, batch.compute_metrics(), TrainBatch(prompts, rows, self._denominator(rows, len(turns))))]

    def _roll_out(self, params: Params, records: Sequence[Record], step: int) -> list[Episode]:
        sampler = one_completion_each(self.sampler)
        num_episodes = len(records) * self.sampler.num_generations
        with synced_params(sampler, params) as synced:
            policy = Policy(
                loader=self.loader,
                sampler=sampler,
                params=params,
                synced=synced,
                vocabulary=self.rewarder.vocabulary,
                num_generations=self.sampler.num_generations,
                max_rows=num_episodes,
                row_multiple=math.lcm(self.loader.num_local_shards, -(-sampler.num_shards // processes.count())),
                key=step_key(self.seed, step),
            )
            try:
                returned = self.function(records, policy)
            except (Exception, SystemExit) as error:
                raise RolloutFunctionError(f"rollout function {self.name} raised {describe(error)}") from error
            episodes = check_episodes(self.name, returned, num_episodes)
            policy.join_others()
        return episodes

    def _last_turns(self, episodes: Sequence[Episode]) -> tuple[Completions, Float[np.ndarray, " B"]]:
        """What each episode ended with, which the rewards look at; an episode without turns has an empty completion."""
        last = [episode.turns[-1] if episode.turns else _NO_TURN for episode in episodes]
        return _completions(last, self.sampler.max_length), np.array([turn.has_ended for turn in last])

    def _advantages(
        self, end_reward_PG: Float[np.ndarray, "P G"], turn_rewards: list[list[float]]
    ) -> list[Float[np.ndarray, " J"]]:
        """The advantages of this process's turns, compared with those of all processes where the loss asks for it."""
        gathered = processes.all_gather_objects((np.asarray(end_reward_PG), turn_rewards))
        of_all = turn_advantages(
            self.learner.loss,
            np.concatenate([rewards for rewards, _ in gathered]),
            [of_turns for _, of_process in gathered for of_turns in of_process],
        )
        start = processes.index() * len(turn_rewards)
        return of_all[start : start + len(turn_rewards)]

    def _shape(self, turns: Sequence[Turn], *, multiple: int) -> tuple[int, int]:
        """Rows of this process, and columns, in few sizes that are the same in all processes."""
        longest = max((turn.num_tokens for turn in turns), default=1)
        num_rows, length = processes.all_reduce_max((len(turns), longest))
        length = round_up(length, self.completion_bucket) if self.completion_bucket else self.sampler.max_length
        return round_up(max(num_rows, 1), multiple), min(length, self.sampler.max_length)

    def _turn_rows(self, episodes: Sequence[Episode], rollout: Rollout) -> TurnRows:
        episode_B = np.repeat(np.arange(len(episodes)), [len(episode.turns) for episode in episodes])
        token_BT, mask_BT, has_ended_B = (
            array[: len(episode_B)]
            for array in (rollout.completions.token_BT, rollout.completions.mask_BT, rollout.has_ended_B)
        )
        decode = self.loader.encoder.processor.tokenizer.decode
        return TurnRows(
            completions=Completions(token_BT, mask_BT),
            has_ended_B=has_ended_B,
            episode_B=episode_B,
            shown=lambda: [list(shown(episode, decode)) for episode in episodes],
            ended=[episode.ended for episode in episodes],
            metrics=[dict(episode.metrics) for episode in episodes],
        )

    def _denominator(self, rows: TrainRows, num_turns: int) -> Float[Array, ""]:
        """As `losses.denominator`, for which padding is no row."""
        mask_BT, loss_type = rows.completions.mask_BT, self.learner.loss.loss_type
        denominator = losses.denominator(mask_BT, loss_type=loss_type, max_completion_length=self.sampler.max_length)
        if loss_type not in _OVER_ROWS:
            return denominator
        return denominator * (max(sum(processes.all_gather_objects(num_turns)), 1) / len(mask_BT))


_NO_TURN = Turn(FILLER, np.zeros(0, np.int32), np.zeros(0, np.float32), "", has_ended=False)


def _completions(turns: Sequence[Turn], length: int) -> Completions:
    tokens = pad_rows([turn.token_T for turn in turns], length, side="right", value=0)
    return Completions(tokens, np.arange(length) < np.array([[turn.num_tokens] for turn in turns]))


def _collate_turns(
    turns: Sequence[Turn], advantages: Sequence[Float[np.ndarray, " J"]], num_rows: int, length: int
) -> _TurnBatch:
    rows = [*turns, *[_NO_TURN] * (num_rows - len(turns))]
    advantage_BT = np.zeros((num_rows, length), np.float32)
    advantage_BT[: len(turns)] = np.array([each for of_episode in advantages for each in of_episode])[:, None]
    rollout = Rollout(
        completions=_completions(rows, length),
        logp_BT=pad_rows([turn.logp_T for turn in rows], length, side="right", value=0),
        entropy_BT=np.zeros((num_rows, length), np.float32),  # nothing asks for it
        has_ended_B=np.array([turn.has_ended for turn in rows]),
        num_steps=np.int32(0),
    )
    return _TurnBatch(rollout, advantage_BT)


def one_completion_each(sampler: Sampler) -> Sampler:
    """The sampler of turns."""
    return dataclasses.replace(sampler, num_generations=1)
