"""The terms of one token: the clipped policy gradient and the KL to the reference."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from r1vl_jax.numerics import masked_mean


def policy_ratio(logp_BT: Float[Array, "B T"], old_logp_BT: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """How much likelier a token is under the policy than under the one that sampled it: exp(lp - lp_old)."""
    return jnp.exp(logp_BT - old_logp_BT)


def clipped_loss(
    ratio_BT: Float[Array, "B T"], advantage_BT: Float[Array, "B T"], *, epsilon: float, epsilon_high: float
) -> Float[Array, "B T"]:
    """The pessimistic surrogate of each token: no reward for leaving the region where the samples tell the truth.

        l = - min( rho A, clip(rho, 1 - epsilon, 1 + epsilon_high) A )

    Source:
        Schulman et al., PPO, 2017, equation 7, https://arxiv.org/abs/1707.06347;
        two bounds: Yu et al., DAPO, 2025, https://arxiv.org/abs/2503.14476.
    """
    clipped_BT = jnp.clip(ratio_BT, 1.0 - epsilon, 1.0 + epsilon_high)
    return -jnp.minimum(ratio_BT * advantage_BT, clipped_BT * advantage_BT)


def k3_kl(logp_BT: Float[Array, "B T"], ref_logp_BT: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """Estimate of KL(policy || reference) from one sampled token each, in nats; never negative, unbiased.

        k3 = exp(d) - d - 1,   d = log pi_ref - log pi

    Source:
        Schulman, "Approximating KL Divergence", 2020, http://joschu.net/blog/kl-approx.html.
    """
    difference_BT = ref_logp_BT - logp_BT
    return jnp.expm1(difference_BT) - difference_BT


def clip_metrics(
    ratio_BT: Float[Array, "B T"],
    advantage_BT: Float[Array, "B T"],
    mask_BT: Bool[Array, "B T"],
    *,
    epsilon: float,
    epsilon_high: float,
) -> dict[str, Float[Array, ""]]:
    """Fractions of tokens whose gradient the clipping removed: below, above, and both; over all tokens, and by row.

    `low_min` and `high_max` are the extremes of the rows' fractions.
    """
    is_low_BT = (ratio_BT < 1.0 - epsilon) & (advantage_BT < 0)
    is_high_BT = (ratio_BT > 1.0 + epsilon_high) & (advantage_BT > 0)
    has_tokens_B = jnp.any(mask_BT, axis=1)
    low_B = masked_mean(is_low_BT, mask_BT, axis=1)
    high_B = masked_mean(is_high_BT, mask_BT, axis=1)
    return {
        "clip_ratio/region_mean": masked_mean(is_low_BT | is_high_BT, mask_BT),
        "clip_ratio/low_mean": masked_mean(is_low_BT, mask_BT),
        "clip_ratio/low_min": jnp.min(low_B, where=has_tokens_B, initial=1.0),
        "clip_ratio/high_mean": masked_mean(is_high_BT, mask_BT),
        "clip_ratio/high_max": jnp.max(high_B, where=has_tokens_B, initial=0.0),
    }
