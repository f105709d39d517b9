"""How much better a sample is than the other samples of its prompt."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_SCALES = ("group", "batch", "none")


def group_advantage(
    reward_PG: Float[Array, "P G"], *, scale_rewards: str = "group", epsilon: float = 1e-4
) -> Float[Array, "P G"]:
    """Compares each reward with the other samples of its prompt.

        A[p, g] = (r[p, g] - mean_g r[p]) / (std_g r[p] + epsilon)      std with G - 1 in the denominator

    A group whose rewards are all equal carries no signal and gets exact zeros, which a rounded mean would not give.

    Args:
        reward_PG: total reward of each sample, in reward units.
        scale_rewards: "group" divides by the group's spread as above, "batch" by the spread of all P * G rewards,
            "none" not at all (Dr. GRPO).
        epsilon: added to the spread, in reward units; may be 0.

    Returns:
        Advantages in standard deviations ("none": in reward units); rows sum to zero.

    Raises:
        ValueError: a group of one sample, or an unknown `scale_rewards`.

    Source:
        Shao et al., DeepSeekMath, 2024, section 4.1.2, https://arxiv.org/abs/2402.03300;
        Liu et al., Dr. GRPO, 2025, https://arxiv.org/abs/2503.20783.
    """
    check_group("group_advantage", reward_PG.shape, scale_rewards)
    return divide_by_std(center(reward_PG), reward_PG, scale_rewards=scale_rewards, epsilon=epsilon)


def check_group(function: str, shape_PG: tuple[int, ...], scale_rewards: str) -> None:
    """Refuses, in the name of a function, groups of one sample and unknown scales."""
    if shape_PG[1] < 2:
        raise ValueError(
            f"{function}: a group needs at least 2 samples to be compared, got reward_PG of shape {tuple(shape_PG)};"
            " sample each prompt more often (num_generations)"
        )
    if scale_rewards not in _SCALES:
        raise ValueError(f"{function}: scale_rewards={scale_rewards!r}: expected one of {_SCALES}")


def has_equal_rewards(reward_PG: Float[Array, "P G"]) -> Bool[Array, "P 1"]:
    """Whether all samples of a group earned the same, so that nothing can be learned from them."""
    return jnp.all(reward_PG == reward_PG[:, :1], axis=1, keepdims=True)


def center(reward_PG: Float[Array, "P G"]) -> Float[Array, "P G"]:
    """Distance to the group's mean; exactly 0 where all rewards are equal."""
    return jnp.where(has_equal_rewards(reward_PG), 0.0, reward_PG - jnp.mean(reward_PG, axis=1, keepdims=True))


def divide_by_std(
    value: Float[Array, "P G"] | Float[Array, "P G T"],
    reward_PG: Float[Array, "P G"],
    *,
    scale_rewards: str,
    epsilon: float,
) -> Float[Array, "P G"] | Float[Array, "P G T"]:
    """Divides by the spread that `scale_rewards` names, plus epsilon; groups of equal rewards stay as they are."""
    if scale_rewards == "none":
        return value
    axis = 1 if scale_rewards == "group" else None
    is_equal = has_equal_rewards(reward_PG)
    # The root of 0 has no finite slope: what is not used must not be differentiated either.
    variance = jnp.var(reward_PG, axis=axis, ddof=1, keepdims=True)
    spread = jnp.sqrt(jnp.where(is_equal, 1.0, variance)) + epsilon
    spread_PG = jnp.broadcast_to(jnp.where(is_equal, 1.0, spread), reward_PG.shape)
    return value / spread_PG.reshape(*reward_PG.shape, *[1] * (value.ndim - 2))
