"""What a generation's samples are worth beside each other: rewards to advantages and weights, token by token."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from r1vl_jax import losses
from r1vl_jax.arrays import Completions, RewardSections, SampledRows, TrainRows
from r1vl_jax.config import Loss


@partial(jax.jit, static_argnums=0)
def compute_advantages(
    loss: Loss, sampled: SampledRows, reward_PG: Float[Array, "P G"], sections: RewardSections | None = None
) -> TrainRows:
    """Compares all samples of a generation, before it is split into updates.

    Args:
        reward_PG: total reward of each sample, in reward units.
        sections: for `credit="step"`.
    """
    mask_BT = sampled.completions.mask_BT
    if loss.mask_truncated_completions:
        mask_BT = losses.mask_truncated(mask_BT, sampled.has_ended_B)
    advantage_BT = _advantage(loss, sampled.completions, reward_PG, sections)
    weight_BT = None
    if loss.egsw_level:
        assert sampled.entropy_BT is not None
        weight_BT = losses.egsw_weight(
            advantage_BT,
            sampled.entropy_BT,
            mask_BT,
            num_generations=reward_PG.shape[1],
            entropy_weight=loss.egsw_entropy_weight,
            temperature=loss.egsw_temperature,
            level=loss.egsw_level,
        )
    return TrainRows(
        completions=Completions(sampled.completions.token_BT, mask_BT),
        advantage_BT=advantage_BT,
        ref_logp_BT=sampled.ref_logp_BT,
        sampling_logp_BT=sampled.sampling_logp_BT,
        old_logp_BT=sampled.policy_logp_BT if loss.updates_per_generation > 1 else None,
        weight_BT=weight_BT,
    )


def apply_overlong_penalty(loss: Loss, total_B: Float[Array, " B"], completions: Completions) -> Float[Array, " B"]:
    """Rewards less what is taken off for coming near the limit of length."""
    if loss.soft_punish_cache == 0:
        return total_B
    return total_B + losses.soft_overlong_penalty(
        jnp.sum(completions.mask_BT, axis=1),
        max_completion_length=completions.token_BT.shape[1],
        soft_punish_cache=loss.soft_punish_cache,
    )


def _advantage(
    loss: Loss, completions: Completions, reward_PG: Float[Array, "P G"], sections: RewardSections | None
) -> Float[Array, "B T"]:
    if loss.credit == "trajectory":
        advantage_PG = losses.group_advantage(reward_PG, scale_rewards=loss.scale_rewards)
        return jnp.broadcast_to(advantage_PG.reshape(-1, 1), completions.token_BT.shape)
    assert sections is not None
    section_of_token_BT, num_sections_B = losses.section_of_token(sections.section_end_BJ, sections.size_BT)
    return losses.step_advantage(
        sections.section_reward_BJ,
        section_of_token_BT,
        num_sections_B,
        num_generations=reward_PG.shape[1],
        reward_PG=reward_PG,
        scale_rewards=loss.scale_rewards,
    )
