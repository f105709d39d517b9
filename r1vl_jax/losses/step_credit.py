"""Step-level credit: a token gets credit for the rewards of its section and of later ones, not for earlier ones.

A section of a completion is all text before the first step, a step, or the final answer. This is an extension of this
project; the papers use one advantage for all tokens of a completion ("trajectory" credit).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from r1vl_jax.losses.advantage import center, check_group, divide_by_std, has_equal_rewards


def step_advantage(
    section_reward_BJ: Float[Array, "B J"],
    section_of_token_BT: Int[Array, "B T"],
    num_sections_B: Int[Array, " B"],
    *,
    num_generations: int,
    reward_PG: Float[Array, "P G"] | None = None,
    scale_rewards: str = "group",
    epsilon: float = 1e-4,
) -> Float[Array, "B T"]:
    """Compares the reward-to-go of a token's section with that of the other samples of its group.

        g_ij = reward of row i in section j and later          J_i = the last section of row i
        A_it = ( g_i,j(t) - mean over the group's rows i' of g_i',min(j(t), J_i') ) / ( std_group r + epsilon )

    With all reward in the last sections this equals `group_advantage` bit for bit: it is computed as that, minus the
    (normalised) difference in the rewards before section j(t). A group whose total rewards are all equal gets exact
    zeros, whatever its sections are.

    Args:
        section_reward_BJ: reward of each section, in reward units; 0 past a row's last section.
        section_of_token_BT: index of each token's section, from 0; ignored outside the mask.
        num_sections_B: number of sections of the row, at least 1.
        num_generations: samples G per prompt; rows of a group are adjacent.
        reward_PG: total rewards, which the sections sum to except for rounding; they decide which groups are equal.
            None: the sums.
        scale_rewards, epsilon: as for `group_advantage`; the standard deviation is that of total rewards.

    Returns:
        Advantage of each token, in standard deviations ("none": in reward units).

    Raises:
        ValueError: a group of one sample, or an unknown `scale_rewards`.
    """
    num_rows, num_sections = section_reward_BJ.shape
    groups = (num_rows // num_generations, num_generations)
    check_group("step_advantage", groups, scale_rewards)
    if reward_PG is None:
        reward_PG = jnp.sum(section_reward_BJ, axis=1).reshape(groups)

    reward_before_BJ = jnp.cumsum(section_reward_BJ, axis=1) - section_reward_BJ
    section_BJ = jnp.minimum(jnp.arange(num_sections)[None], num_sections_B[:, None] - 1)
    reward_before_BJ = jnp.take_along_axis(reward_before_BJ, section_BJ, axis=1)
    reward_before_PGJ = reward_before_BJ.reshape(*groups, num_sections)
    centered_before_PGJ = reward_before_PGJ - jnp.mean(reward_before_PGJ, axis=1, keepdims=True)
    centered_before_PGJ = jnp.where(has_equal_rewards(reward_PG)[..., None], 0.0, centered_before_PGJ)
    scale = partial(divide_by_std, reward_PG=reward_PG, scale_rewards=scale_rewards, epsilon=epsilon)
    advantage_PGJ = scale(center(reward_PG))[..., None] - scale(centered_before_PGJ)
    section_of_token_BT = jnp.clip(section_of_token_BT, 0, num_sections_B[:, None] - 1)
    return jnp.take_along_axis(advantage_PGJ.reshape(num_rows, num_sections), section_of_token_BT, axis=1)


def section_of_token(
    section_end_BJ: Int[Array, "B J"], size_BT: Int[Array, "B T"]
) -> tuple[Int[Array, "B T"], Int[Array, " B"]]:
    """The section in which each token begins, and the number of sections of each row.

    Args:
        section_end_BJ: byte offset where each section ends, ascending; -1 in padding. See `rewards.StepReward`.
        size_BT: bytes of text of each token; 0 for special tokens. A token without text at the end of a row belongs to
            the row's last section.
    """
    start_BT = jnp.cumsum(size_BT, axis=1) - size_BT
    section_end_BJ = jnp.asarray(section_end_BJ)
    # Padding sections end after every token.
    end_BJ = jnp.where(section_end_BJ < 0, jnp.iinfo(section_end_BJ.dtype).max, section_end_BJ)
    section_BT = jax.vmap(lambda end_J, start_T: jnp.searchsorted(end_J, start_T, side="right"))(end_BJ, start_BT)
    num_sections_B = jnp.sum(section_end_BJ >= 0, axis=1)
    return jnp.minimum(section_BT, num_sections_B[:, None] - 1), num_sections_B
