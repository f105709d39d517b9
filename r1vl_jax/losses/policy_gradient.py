"""The terms of the loss of one token: probability ratio, clipped surrogate or CISPO, and the k3 estimate of the KL.

The KL term is computed here (`k3_kl`) and added to the policy term, times beta, in `objective.step_grpo`.
"""

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
    """Importance ratio between the policy that is updated and the policy that sampled, for each token.

        "token"       rho_it = exp(lp_it - lp_old_it)
        "sequence"    rho_it = exp( sum_t (lp_it - lp_old_it) m_it / max(L_i, 1) )      the same for all tokens of a row

    The ratio of a sequence is the geometric mean of those of its tokens; L_i is the number of its tokens.

    Args:
        logp_BT, old_logp_BT: log-probabilities under the two policies, in nats.
        mask_BT: m, True where a token counts.
        importance_sampling_level: "token" or "sequence" (GSPO).

    Source:
        "token": Schulman et al., PPO, 2017, https://arxiv.org/abs/1707.06347;
        "sequence": Zheng et al., GSPO, 2025, equation 7, https://arxiv.org/abs/2507.18071.
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
    """PPO's clipped surrogate of each token: no gradient for moving further outside the trust region.

        l = - min( min(rho, delta) A, clip(rho, 1 - epsilon, 1 + epsilon_high) A )        delta only if it is set

    Args:
        ratio_BT: rho, from `policy_ratio`.
        advantage_BT: A, in standard deviations.
        epsilon, epsilon_high: distances from 1 at which the ratio is clipped, below and above.
        delta: upper bound of the ratio where the advantage is negative (two-sided clipping).

    Source:
        Schulman et al., PPO, 2017, equation 7, https://arxiv.org/abs/1707.06347;
        different bounds below and above: Yu et al., DAPO, 2025, https://arxiv.org/abs/2503.14476.
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
    """CISPO's policy term of each token: the importance weight is clipped, not the gradient of the token.

        l = - stop_gradient(min(rho, epsilon_high)) A lp

    Args:
        logp_BT: lp, log-probability under the policy, in nats.
        ratio_BT: rho, from `policy_ratio`.
        advantage_BT: A, in standard deviations.
        epsilon_high: upper bound of the ratio itself, not a distance from 1.

    Source:
        MiniMax-M1 (CISPO), 2025, equation 4, https://arxiv.org/abs/2506.13585.
    """
    return -jax.lax.stop_gradient(jnp.minimum(ratio_BT, epsilon_high)) * advantage_BT * logp_BT


def k3_kl(logp_BT: Float[Array, "B T"], ref_logp_BT: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """The k3 estimate of KL(policy || reference) from each sampled token, in nats; never negative, unbiased.

        k3 = exp(d) - d - 1,   d = log pi_ref - log pi

    `objective.step_grpo` adds it to the loss, times beta.

    Args:
        logp_BT: log pi, under the policy, in nats.
        ref_logp_BT: log pi_ref, under the frozen reference, in nats.

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
    lower: float,
    upper: float,
) -> dict[str, Float[Array, ""]]:
    """Fractions of tokens whose gradient is clipped, under TRL's names.

    `low`: ratio below `lower` and negative advantage; `high`: ratio above `upper` and positive advantage; `region`:
    either. `*_mean` are over all tokens, `low_min` and `high_max` the extremes of the fractions of rows.
    """
    is_low_BT = (ratio_BT < lower) & (advantage_BT < 0)
    is_high_BT = (ratio_BT > upper) & (advantage_BT > 0)
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
