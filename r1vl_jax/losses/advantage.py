"""How much better a sample is than the other samples of its prompt."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def group_advantage(
    reward_PG: Float[Array, "P G"], *, scale_rewards: str = "group", epsilon: float = 1e-4
) -> Float[Array, "P G"]:
    """Compares each reward with the other samples of its prompt.

        A[p, g] = (r[p, g] - mean_g r[p]) / (std_g r[p] + epsilon)      std with G - 1 in the denominator

    A group whose rewards are all equal carries no signal and gets exact zeros, which a rounded mean would not give.

    Args:
        reward_PG: total reward of each sample, in reward units.
        scale_rewards: "group" divides by the group's spread as above; "none" subtracts the mean only (Dr. GRPO).
        epsilon: added to the spread, in reward units.

    Returns:
        Advantages in standard deviations of the group ("none": in reward units); rows sum to zero.

    Raises:
        ValueError: a group of one sample, or an unknown `scale_rewards`.

    Source:
        Shao et al., DeepSeekMath, 2024, section 4.1.2, https://arxiv.org/abs/2402.03300;
        Liu et al., Dr. GRPO, 2025, https://arxiv.org/abs/2503.20783.
    """
    if reward_PG.shape[1] < 2:
        raise ValueError(
            f"group_advantage: a group needs at least 2 samples to be compared, got reward_PG of shape"
            f" {tuple(reward_PG.shape)}; sample each prompt more often (num_generations)"
        )
    if scale_rewards not in ("group", "none"):
        raise ValueError(f"group_advantage: scale_rewards={scale_rewards!r}: expected 'group' or 'none'")
    is_equal_P1 = jnp.all(reward_PG == reward_PG[:, :1], axis=1, keepdims=True)
    centered_PG = jnp.where(is_equal_P1, 0.0, reward_PG - jnp.mean(reward_PG, axis=1, keepdims=True))
    if scale_rewards == "none":
        return centered_PG
    return centered_PG / (jnp.std(reward_PG, axis=1, ddof=1, keepdims=True) + epsilon)
