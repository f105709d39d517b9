"""From rewards to advantages and weights, token by token: the one path of the staged and the fused step."""

import dataclasses
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from r1vl_jax import losses
from r1vl_jax.arrays import Array, Completions, RewardSections, SampledRows, TrainRows, bundle
from r1vl_jax.config import Loss
from r1vl_jax.rewards.text import Vocabulary, token_sizes
from r1vl_jax.rewards.weighted_sum import RewardOutput, RewardSpec, assign_rewards_to_sections


@bundle
class GroupRewards:
    """Rewards by group, from which advantages are computed.

    Attributes:
        reward_PG: total reward of each sample, overlong penalty included, in reward units.
        sections: reward of each section of a completion, for `credit="step"`; None otherwise.
    """

    reward_PG: Float[Array, "P G"]
    sections: RewardSections | None


def compute_group_rewards(
    loss: Loss,
    spec: RewardSpec,
    rewards: RewardOutput,
    completions: Completions,
    vocabulary: Vocabulary,
    *,
    num_generations: int,
    num_sections: int = 0,
) -> GroupRewards:
    """Applies the overlong penalty and, for `credit="step"`, assigns rewards to sections.

    Host arrays stay on the host where no penalty and no sections are asked for.

    Args:
        vocabulary: bytes of every token, to find the tokens of a section.
        num_sections: minimum padded number of sections.
    """
    total_B = apply_overlong_penalty(loss, rewards.total_B, completions)
    sections = None
    if loss.credit == "step":
        sections = assign_rewards_to_sections(
            rewards.reward,
            total_B,
            spec.settings.reward_weights[0],
            token_sizes(completions.token_BT, vocabulary),
            num_sections=num_sections,
        )
    return GroupRewards(total_B.reshape(-1, num_generations), sections)


def apply_overlong_penalty(loss: Loss, total_B: Float[Array, " B"], completions: Completions) -> Float[Array, " B"]:
    """Rewards with DAPO's soft overlong penalty, if `loss.soft_punish_cache` asks for it."""
    if loss.soft_punish_cache == 0:
        return total_B
    return total_B + losses.soft_overlong_penalty(
        jnp.sum(completions.mask_BT, axis=1),
        max_completion_length=completions.token_BT.shape[1],
        soft_punish_cache=loss.soft_punish_cache,
    )


@partial(jax.jit, static_argnums=0)
def compute_advantages(loss: Loss, sampled: SampledRows, rewards: GroupRewards) -> TrainRows:
    """Compares the samples of each group, over the whole generation, before it is split into updates."""
    advantage_BT = _advantage(loss, sampled.completions, rewards)
    rows = make_train_rows(loss, sampled, advantage_BT)
    if not loss.egsw_level:
        return rows
    assert sampled.entropy_BT is not None
    weight_BT = losses.egsw_weight(
        advantage_BT,
        sampled.entropy_BT,
        rows.completions.mask_BT,
        num_generations=rewards.reward_PG.shape[1],
        entropy_weight=loss.egsw_entropy_weight,
        temperature=loss.egsw_temperature,
        level=loss.egsw_level,
    )
    return dataclasses.replace(rows, weight_BT=weight_BT)


def make_train_rows(loss: Loss, sampled: SampledRows, advantage_BT: Float[Array, "B T"]) -> TrainRows:
    """The loss's inputs for sampled completions, without weights."""
    mask_BT = sampled.completions.mask_BT
    if loss.mask_truncated_completions:
        mask_BT = losses.mask_truncated(mask_BT, sampled.has_ended_B)
    return TrainRows(
        completions=Completions(sampled.completions.token_BT, mask_BT),
        advantage_BT=advantage_BT,
        ref_logp_BT=sampled.ref_logp_BT,
        sampling_logp_BT=sampled.sampling_logp_BT,
        old_logp_BT=sampled.policy_logp_BT if loss.updates_per_generation > 1 else None,
    )


def turn_advantages(
    loss: Loss, end_reward_PG: Float[np.ndarray, "P G"], turn_rewards: Sequence[Sequence[float]]
) -> list[Float[np.ndarray, " J"]]:
    """The advantage of each turn of each episode; all episodes of a group are compared.

    With `loss.credit="trajectory"` all turns of an episode have that of its total reward. With "step" a turn has that
    of the rewards from it on, as `losses.step_advantage` defines it for sections of a completion.

    Args:
        end_reward_PG: what each episode earns at its end, in reward units.
        turn_rewards: of episode p*G + g, for each of its turns.
    """
    num_turns_B = np.array([len(of_turns) for of_turns in turn_rewards])
    reward_BJ = np.zeros((len(turn_rewards), max(num_turns_B.max(), 1)), np.float32)
    for row_J, of_turns in zip(reward_BJ, turn_rewards, strict=True):
        row_J[: len(of_turns)] = of_turns
    num_sections_B = np.maximum(num_turns_B, 1)
    reward_BJ[np.arange(len(reward_BJ)), num_sections_B - 1] += end_reward_PG.reshape(-1)
    reward_PG = reward_BJ.sum(axis=1).reshape(end_reward_PG.shape)
    if loss.credit == "trajectory":
        advantage_PG = losses.group_advantage(reward_PG, scale_rewards=loss.scale_rewards)
        advantage_BJ = np.broadcast_to(np.asarray(advantage_PG).reshape(-1, 1), reward_BJ.shape)
    else:
        advantage_BJ = np.asarray(
            losses.step_advantage(
                jnp.asarray(reward_BJ),
                jnp.broadcast_to(jnp.arange(reward_BJ.shape[1]), reward_BJ.shape),
                jnp.asarray(num_sections_B),
                num_generations=reward_PG.shape[1],
                reward_PG=reward_PG,
                scale_rewards=loss.scale_rewards,
            )
        )
    return [advantage_J[:num_turns] for advantage_J, num_turns in zip(advantage_BJ, num_turns_B, strict=True)]


def _advantage(loss: Loss, completions: Completions, rewards: GroupRewards) -> Float[Array, "B T"]:
    if loss.credit == "trajectory":
        advantage_PG = losses.group_advantage(rewards.reward_PG, scale_rewards=loss.scale_rewards)
        return jnp.broadcast_to(advantage_PG.reshape(-1, 1), completions.token_BT.shape)
    assert rewards.sections is not None
    section_of_token_BT, num_sections_B = losses.section_of_token(
        rewards.sections.section_end_BJ, rewards.sections.size_BT
    )
    return losses.step_advantage(
        rewards.sections.section_reward_BJ,
        section_of_token_BT,
        num_sections_B,
        num_generations=rewards.reward_PG.shape[1],
        reward_PG=rewards.reward_PG,
        scale_rewards=loss.scale_rewards,
    )
