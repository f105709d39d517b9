"""Group-relative advantages: each reward is compared with those of the other samples of its prompt."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_SCALES = ("group", "batch", "none")


def group_advantage(
    reward_PG: Float[Array, "P G"], *, scale_rewards: str = "group", epsilon: float = 1e-4
) -> Float[Array, "P G"]:
    """Standardises each reward within the group of its prompt.

        A[p, g] = (r[p, g] - mean_g r[p]) / (std_g r[p] + epsilon)      std with G - 1 in the denominator

    A group whose rewards are all equal has no learning signal and gets exact zeros; rounding errors of the mean are not
    amplified.

    Args:
        reward_PG: total reward of each sample, in reward units.
        scale_rewards: "group" divides by the standard deviation of the group as above, "batch" by that of all P * G
            rewards, "none" does not divide (Dr. GRPO).
        epsilon: added to the standard deviation, in reward units; may be 0.

    Returns:
        Advantages in standard deviations ("none": in reward units); rows sum to zero.

    Raises:
        ValueError: a group of one sample, or an unknown `scale_rewards`.

    Source:
        Shao et al., DeepSeekMath, 2024, section 4.1.2, https://arxiv.org/abs/2402.03300;
        "none": Liu et al., Dr. GRPO, 2025, https://arxiv.org/abs/2503.20783.
    """
    check_group("group_advantage", reward_PG.shape, scale_rewards)
    return divide_by_std(center(reward_PG), reward_PG, scale_rewards=scale_rewards, epsilon=epsilon)


def check_group(function: str, shape_PG: tuple[int, ...], scale_rewards: str) -> None:
    """Refuses groups of one sample and unknown `scale_rewards`; `function` is named in the error."""
    if shape_PG[1] < 2:
        raise ValueError(
            f"{function}: a group needs at least 2 samples to be compared, got reward_PG of shape {tuple(shape_PG)};"
            " sample each prompt more often (num_generations)"
        )
    if scale_rewards not in _SCALES:
        raise ValueError(f"{function}: scale_rewards={scale_rewards!r}: expected one of {_SCALES}")


def has_equal_rewards(reward_PG: Float[Array, "P G"]) -> Bool[Array, "P 1"]:
    """Whether all samples of a group have the same reward, so that the group has no learning signal."""
    return jnp.all(reward_PG == reward_PG[:, :1], axis=1, keepdims=True)


def center(reward_PG: Float[Array, "P G"]) -> Float[Array, "P G"]:
    """Rewards minus the mean of their group; exactly 0 where all rewards are equal."""
    return jnp.where(has_equal_rewards(reward_PG), 0.0, reward_PG - jnp.mean(reward_PG, axis=1, keepdims=True))


def divide_by_std(
    value: Float[Array, "P G"] | Float[Array, "P G T"],
    reward_PG: Float[Array, "P G"],
    *,
    scale_rewards: str,
    epsilon: float,
) -> Float[Array, "P G"] | Float[Array, "P G T"]:
    """Divides by the standard deviation that `scale_rewards` names, plus epsilon; not in groups of equal rewards."""
    if scale_rewards == "none":
        return value
    axis = 1 if scale_rewards == "group" else None
    is_equal = has_equal_rewards(reward_PG)
    # The derivative of sqrt at 0 is infinite; the inner `where` keeps it out of the gradient (double-where).
    variance = jnp.var(reward_PG, axis=axis, ddof=1, keepdims=True)
    std = jnp.sqrt(jnp.where(is_equal, 1.0, variance)) + epsilon
    std_PG = jnp.broadcast_to(jnp.where(is_equal, 1.0, std), reward_PG.shape)
    return value / std_PG.reshape(*reward_PG.shape, *[1] * (value.ndim - 2))
