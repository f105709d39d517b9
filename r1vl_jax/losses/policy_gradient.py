"""The terms of one token: the clipped policy gradient and the KL to the reference."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from r1vl_jax.losses.masked import masked_mean


def policy_ratio(
    logp_BT: Float[Array, "B T"],
    old_logp_BT: Float[Array, "B T"],
    mask_BT: Bool[Array, "B T"],
    *,
    importance_sampling_level: str,
) -> Float[Array, "B T"]:
    """How much likelier a token is under the policy than under the one that sampled it: exp(lp - lp_old).

    At level "sequence" every token of a row has the row's ratio, the geometric mean of those of its tokens.

    Source:
        of sequences: Zheng et al., GSPO, 2025, equation 7, https://arxiv.org/abs/2507.18071.
    """
    difference_BT = logp_BT - old_logp_BT
    if importance_sampling_level == "sequence":
        difference_B1 = masked_mean(difference_BT, mask_BT, axis=1)[:, None]
        difference_BT = jnp.broadcast_to(difference_B1, mask_BT.shape)
    return jnp.exp(difference_BT)


def clipped_loss(
    ratio_BT: Float[Array, "B T"],
    advantage_BT: Float[Array, "B T"],
    *,
    epsilon: float,
    epsilon_high: float,
    delta: float | None = None,
) -> Float[Array, "B T"]:
    """The pessimistic surrogate of each token: no reward for leaving the region where the samples tell the truth.

        l = - min( min(rho, delta) A, clip(rho, 1 - epsilon, 1 + epsilon_high) A )        delta only if it is set

    Source:
        Schulman et al., PPO, 2017, equation 7, https://arxiv.org/abs/1707.06347;
        two bounds: Yu et al., DAPO, 2025, https://arxiv.org/abs/2503.14476.
    """
    clipped_BT = jnp.clip(ratio_BT, 1.0 - epsilon, 1.0 + epsilon_high)
    bounded_BT = ratio_BT if delta is None else jnp.minimum(ratio_BT, delta)
    return -jnp.minimum(bounded_BT * advantage_BT, clipped_BT * advantage_BT)


def cispo_loss(
    logp_BT: Float[Array, "B T"],
    ratio_BT: Float[Array, "B T"],
    advantage_BT: Float[Array, "B T"],
    *,
    epsilon_high: float,
) -> Float[Array, "B T"]:
    """The policy gradient of each token, weighted by its ratio up to a bound: no token loses its gradient.

        l = - stop_gradient(min(rho, epsilon_high)) A lp

    Source:
        MiniMax-M1 (CISPO), 2025, equation 4, https://arxiv.org/abs/2506.13585.
    """
    return -jax.lax.stop_gradient(jnp.minimum(ratio_BT, epsilon_high)) * advantage_BT * logp_BT


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
    lowest: float,
    highest: float,
) -> dict[str, Float[Array, ""]]:
    """Fractions of tokens that clipping changed: good ones above `highest`, bad ones below `lowest`, and both.

    `*_mean` are over all tokens; `low_min` and `high_max` are the extremes of the rows' fractions.
    """
    is_low_BT = (ratio_BT < lowest) & (advantage_BT < 0)
    is_high_BT = (ratio_BT > highest) & (advantage_BT > 0)
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
