"""Entropy-guided sequence weighting (EGSW): samples of high advantage and high entropy get a larger weight."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from r1vl_jax.losses.masked import masked_mean

_LEVELS = ("trajectory", "step")


def egsw_weight(
    advantage: Float[Array, " B"] | Float[Array, "B T"],
    entropy_BT: Float[Array, "B T"],
    mask_BT: Bool[Array, "B T"],
    *,
    num_generations: int,
    entropy_weight: float,
    temperature: float,
    level: str = "trajectory",
) -> Float[Array, "B T"]:
    """Weights of the policy gradient: at each position, a softmax over the samples of the group that have not ended.

        w_it = n_t exp(s_it) / sum over the n_t samples j that have not ended at t of exp(s_jt)
        s_it = (A_it + alpha_H H_it) / P

    The factor n_t makes the mean weight 1, so that P -> infinity gives 1 everywhere, which is GRPO. With alpha_H = 0
    samples are weighted by advantage alone. The paper states neither the factor n_t, nor that ended samples are left
    out, nor that no gradient flows through the weight: these are decisions of this project.

    Args:
        advantage: of each row or token, in standard deviations.
        entropy_BT: entropy of the next-token distribution of the policy that sampled, in nats.
        mask_BT: True where a token counts; a row without tokens is left out.
        num_generations: samples G per prompt; rows of a group are adjacent.
        entropy_weight: alpha_H, in standard deviations per nat.
        temperature: P, in standard deviations; greater than 0.
        level: "step" uses A and H of each token, "trajectory" their means over the row. Positions are tokens in both;
            this "step" is a decoding step, unrelated to the steps of a solution.

    Returns:
        Weights of mean 1 over the samples that have not ended; 0 outside the mask; constants to the gradient.

    Raises:
        ValueError: an unknown `level`, or a number of rows that is not a multiple of `num_generations`.

    Source:
        Entropy-guided sequence weighting, 2025, https://arxiv.org/abs/2503.22456.
    """
    if level not in _LEVELS:
        raise ValueError(f"egsw_weight: level={level!r}: expected one of {_LEVELS}")
    if mask_BT.shape[0] % num_generations:
        raise ValueError(
            f"egsw_weight: {mask_BT.shape[0]} rows are not a multiple of num_generations={num_generations};"
            " give all samples of each prompt together"
        )

    def at_level(value_BT: Float[Array, "B T"]) -> Float[Array, "B T"]:
        if level == "trajectory":
            value_BT = jnp.broadcast_to(masked_mean(value_BT, mask_BT, axis=1)[:, None], mask_BT.shape)
        return value_BT.reshape(-1, num_generations, mask_BT.shape[1])

    advantage_BT = jnp.broadcast_to(advantage[:, None] if advantage.ndim == 1 else advantage, mask_BT.shape)
    mask_PGT = mask_BT.reshape(-1, num_generations, mask_BT.shape[1])
    logit_PGT = (at_level(advantage_BT) + entropy_weight * at_level(entropy_BT)) / temperature
    weight_PGT = jax.nn.softmax(jnp.where(mask_PGT, logit_PGT, -jnp.inf), axis=1)
    num_running_P1T = jnp.sum(mask_PGT, axis=1, keepdims=True)
    weight_BT = jnp.where(mask_PGT, weight_PGT * num_running_P1T, 0.0).reshape(mask_BT.shape)
    return jax.lax.stop_gradient(weight_BT)
