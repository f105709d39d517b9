"""Step-level credit: a token is answerable for what is earned from its own section on, not for what came before."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from r1vl_jax.losses.advantage import center, check_group, has_equal_rewards, divide_by_std


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
    """Compares what a row earns from a token's section on with what the other samples earn from there on.

        g_ij = what row i earns in section j or later          J_i = the last section of row i
        A_it = ( g_i,j(t) - mean over the group's rows i' of g_i',min(j(t), J_i') ) / ( std_group r + epsilon )

    With all reward in the last sections this is `group_advantage`, to the bit: it is computed as that, less the
    difference in what was earned before section j(t). A group whose total rewards are all equal gets exact zeros,
    wherever they were earned: its spread is no measure.

    Args:
        section_reward_BJ: what each section earned, in reward units; 0 past a row's last section.
        section_of_token_BT: number of the section a token stands in, from 0; outside the mask any.
        num_sections_B: sections of the row, at least 1.
        num_generations: samples G per prompt.
        reward_PG: total rewards, which the sections sum to but for rounding: which groups are equal is told by these.
            None: the sums.
        scale_rewards, epsilon: as for `group_advantage`; the spread is that of total rewards.

    Returns:
        Advantage of each token, in standard deviations.

    Raises:
        ValueError: a group of one sample, or an unknown `scale_rewards`.
    """
    num_rows, num_sections = section_reward_BJ.shape
    groups = (num_rows // num_generations, num_generations)
    check_group("step_advantage", groups, scale_rewards)
    if reward_PG is None:
        reward_PG = jnp.sum(section_reward_BJ, axis=1).reshape(groups)

    earned_before_BJ = jnp.cumsum(section_reward_BJ, axis=1) - section_reward_BJ
    section_BJ = jnp.minimum(jnp.arange(num_sections)[None], num_sections_B[:, None] - 1)
    earned_before_BJ = jnp.take_along_axis(earned_before_BJ, section_BJ, axis=1)
    earned_before_PGJ = earned_before_BJ.reshape(*groups, num_sections)
    ahead_PGJ = earned_before_PGJ - jnp.mean(earned_before_PGJ, axis=1, keepdims=True)
    ahead_PGJ = jnp.where(has_equal_rewards(reward_PG)[..., None], 0.0, ahead_PGJ)
    scale = partial(divide_by_std, reward_PG=reward_PG, scale_rewards=scale_rewards, epsilon=epsilon)
    advantage_PGJ = scale(center(reward_PG))[..., None] - scale(ahead_PGJ)
    section_of_token_BT = jnp.clip(section_of_token_BT, 0, num_sections_B[:, None] - 1)
    return jnp.take_along_axis(advantage_PGJ.reshape(num_rows, num_sections), section_of_token_BT, axis=1)


def section_of_token(
    section_end_BJ: Int[Array, "B J"], size_BT: Int[Array, "B T"]
) -> tuple[Int[Array, "B T"], Int[Array, " B"]]:
    """The section in which each token begins, and how many sections each row has.

    Args:
        section_end_BJ: byte offset where each section ends, rising; -1 where there is none. See `rewards.StepReward`.
        size_BT: bytes of text of each token; 0 for special tokens. A token without text at the end of a row belongs to
            the row's last section.
    """
    start_BT = jnp.cumsum(size_BT, axis=1) - size_BT
    section_end_BJ = jnp.asarray(section_end_BJ)
    # Absent sections end past every token.
    end_BJ = jnp.where(section_end_BJ < 0, jnp.iinfo(section_end_BJ.dtype).max, section_end_BJ)
    section_BT = jax.vmap(lambda end_J, start_T: jnp.searchsorted(end_J, start_T, side="right"))(end_BJ, start_BT)
    num_sections_B = jnp.sum(section_end_BJ >= 0, axis=1)
    return jnp.minimum(section_BT, num_sections_B[:, None] - 1), num_sections_B
