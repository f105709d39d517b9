"""Rewards of a batch on the host, as the configuration weighs them, and where they were earned."""

from dataclasses import asdict

import numpy as np
from jaxtyping import Float, Int

from r1vl_jax import rewards
from r1vl_jax.arrays import Sections
from r1vl_jax.data.records import Record
from r1vl_jax.rewards import StepReward
from r1vl_jax.run import Run

_SECTIONS_BUCKET = 8  # the number of sections is padded to a multiple of this, so that few programs are compiled


def step_reward(run: Run, texts: list[str], records: list[Record]) -> tuple[StepReward, Float[np.ndarray, "P G"]]:
    """What each completion earns, part by part, and the weighted total that is compared within groups."""
    settings = run.config.reward
    num_generations = len(texts) // len(records)
    reward = rewards.score(
        texts,
        [asdict(record) for record in records for _ in range(num_generations)],
        semantics=settings.semantics,
        backend=settings.backend,
        alpha=settings.alpha,
        judge=run.judge,
    )
    accuracy_weight, validity_weight = settings.reward_weights
    total_B = accuracy_weight * reward.step_accuracy + validity_weight * reward.step_validity
    return reward, total_B.reshape(len(records), num_generations)


def place_rewards(
    reward: StepReward,
    total_B: Float[np.ndarray, " B"],
    accuracy_weight: float,
    size_BT: Int[np.ndarray, "B T"],
) -> Sections:
    """Where each reward was earned; what is neither correctness nor a key step is paid in the last section.

    Args:
        total_B: all that was earned, in reward units; sections of a row sum to it.
        accuracy_weight: of StepRAR in the total.
        size_BT: bytes of text of each token.
    """
    missing = -reward.section_end_BJ.shape[1] % _SECTIONS_BUCKET
    section_end_BJ = np.pad(reward.section_end_BJ, ((0, 0), (0, missing)), constant_values=-1)
    section_reward_BJ = accuracy_weight * np.pad(reward.section_reward_BJ, ((0, 0), (0, missing)))
    last_B = (section_end_BJ >= 0).sum(axis=1) - 1
    section_reward_BJ[np.arange(len(last_B)), last_B] += total_B - section_reward_BJ.sum(axis=1)
    return Sections(section_end_BJ, section_reward_BJ, size_BT)
