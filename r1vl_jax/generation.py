"""A generation: prompts are drawn, completions sampled, scored and rewarded; then compared and split into updates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from r1vl_jax import losses
from r1vl_jax.arrays import Params, PromptBatch, Rollout, SampledRows, TrainBatch, TrainRows
from r1vl_jax.comparison import compare, penalised
from r1vl_jax.data.pipeline import Stream
from r1vl_jax.data.records import Record
from r1vl_jax.learner import Learner, refer
from r1vl_jax.rewarding import Earned, place_rewards
from r1vl_jax.rewards.text import token_sizes
from r1vl_jax.run import Run
from r1vl_jax.sampling.loop import sample
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.sampling.sync import copied


@dataclass(frozen=True)
class Draw:
    """P prompts, G completions of each, and what these earned.

    Attributes:
        reward_PG: the total that is compared, penalties included.
        num_draws: how often prompts were drawn, until groups of equal rewards were replaced.
    """

    records: list[Record]
    prompts: PromptBatch
    sampled: SampledRows
    earned: Earned
    reward_PG: Float[np.ndarray, "P G"]
    num_draws: int = 1

    @property
    def num_tokens(self) -> int:
        return int(jnp.sum(self.sampled.completions.mask_BT) + self.prompts.mask_PS.sum())


@dataclass(frozen=True)
class Generator:
    """What draws and samples.

    Attributes:
        reference_params: the frozen reference; None where nothing needs it.
    """

    run: Run
    learner: Learner
    sampler: Sampler
    reference_params: Params | None
    stream: Stream

    def generate(self, params: Params, step: int) -> list[tuple[Draw, TrainBatch]]:
        """What one policy samples for the updates from `step` on: `steps_per_generation` batches."""
        steps = range(step, step + self.learner.loss.steps_per_generation)
        keys = [self.run.key(step) for step in steps]
        draws = self._draw(params, keys)
        if self.learner.loss.dynamic_sample:
            draws = [self._with_spread(params, draw, key) for draw, key in zip(draws, keys, strict=True)]
        with self.run.timers("reward"):
            rows = self._compare(draws)
        return [
            (draw, TrainBatch(draw.prompts, part, self._denominator(part, rows)))
            for draw, part in zip(draws, _split(rows, len(draws)), strict=True)
        ]

    def _draw(self, params: Params, keys: Sequence[Key[Array, ""]]) -> list[Draw]:
        """A draw for each key. The sampler's copy of the parameters is gone before anything is scored."""
        with copied(self.sampler, params) as copy:
            sampled = [self._sample(params, copy, key) for key in keys]
        return [self._earned(params, *one) for one in sampled]

    def _sample(
        self, params: Params, copy: Params, key: Key[Array, ""]
    ) -> tuple[list[Record], PromptBatch, PromptBatch, Rollout]:
        """Records, their prompts on the host and on the devices, and the completions."""
        with self.run.timers("data"):
            records, prompts = next(self.stream)
            divided = self.run.parts.divide(prompts)
        with self.run.timers("gen"):
            rollout = sample(self.sampler, params, divided, key, copy=copy)
            return records, prompts, divided, jax.block_until_ready(rollout)

    def _earned(
        self, params: Params, records: list[Record], prompts: PromptBatch, divided: PromptBatch, rollout: Rollout
    ) -> Draw:
        """What the completions earned, and what an update needs to know of them."""
        timers = self.run.timers
        with timers("ref"):  # dispatched only: the device computes while the host scores
            sampled = refer(self.learner, params, self.reference_params, divided, rollout)
        with timers("reward"):
            earned = self.run.rewarder(rollout.completions, records)
            total_B = np.asarray(penalised(self.learner.loss, earned.total_B, rollout.completions))
        return Draw(records, prompts, sampled, earned, total_B.reshape(len(records), -1))

    def _with_spread(self, params: Params, first: Draw, key: Key[Array, ""]) -> Draw:
        """Draws again for groups whose rewards are all equal."""
        draws, num_prompts = [first], len(first.records)
        while (
            sum(_has_spread(draw).sum() for draw in draws) < num_prompts
            and len(draws) <= self.learner.loss.max_resample_times
        ):
            draws += self._draw(params, [jax.random.fold_in(key, len(draws))])
        return first if len(draws) == 1 else self._best_of(draws)

    def _best_of(self, draws: Sequence[Draw]) -> Draw:
        """As many prompts as one draw has: those with spread first, then those without, in the order drawn."""
        num_prompts, num_generations = draws[0].reward_PG.shape
        has_spread = np.concatenate([_has_spread(draw) for draw in draws])
        groups = np.argsort(~has_spread, kind="stable")[:num_prompts]
        rows = (groups[:, None] * num_generations + np.arange(num_generations)).reshape(-1)
        records = [record for draw in draws for record in draw.records]
        with self.run.timers("data"):
            encoder = self.run.parts.encoder
            prompts = encoder.batch([encoder.prompt(records[group]) for group in groups])
        return Draw(
            records=[records[group] for group in groups],
            prompts=prompts,
            sampled=jax.tree.map(lambda leaf: leaf[rows], _concatenate([draw.sampled for draw in draws])),
            earned=jax.tree.map(lambda leaf: leaf[rows], _concatenate([draw.earned for draw in draws])),
            reward_PG=np.concatenate([draw.reward_PG for draw in draws])[groups],
            num_draws=len(draws),
        )

    def _compare(self, draws: Sequence[Draw]) -> TrainRows:
        sampled = _concatenate([draw.sampled for draw in draws])
        reward_PG = np.concatenate([draw.reward_PG for draw in draws])
        sections = None
        if self.learner.loss.credit == "step":
            reward = _concatenate([draw.earned.reward for draw in draws])
            accuracy_weight, _ = self.run.config.reward.reward_weights
            size_BT = token_sizes(np.asarray(sampled.completions.token_BT), self.run.rewarder.vocabulary)
            sections = place_rewards(reward, reward_PG.reshape(-1), accuracy_weight, size_BT)
        return compare(self.learner.loss, sampled, jnp.asarray(reward_PG), sections)

    def _denominator(self, rows_of_update: TrainRows, rows_of_generation: TrainRows) -> Float[Array, ""]:
        loss_type = self.learner.loss.loss_type
        rows = rows_of_generation if loss_type in losses.OVER_GENERATION else rows_of_update
        mask_BT = rows.completions.mask_BT
        return losses.denominator(mask_BT, loss_type=loss_type, max_completion_length=mask_BT.shape[1])


def _has_spread(draw: Draw) -> Bool[np.ndarray, " P"]:
    return np.ptp(draw.reward_PG, axis=1) > 0


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
    size = rows.advantage_BT.shape[0] // num_parts
    return [jax.tree.map(lambda leaf, i=i: leaf[i * size : (i + 1) * size], rows) for i in range(num_parts)]
