"""From terms of single tokens to one number: the StepGRPO objective, and the supervised one of the warm-up."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from r1vl_jax.losses.policy import clip_metrics, clipped_loss, k3_kl, policy_ratio
from r1vl_jax.numerics import masked_mean, masked_sum

Metrics = dict[str, Float[Array, ""]]


def step_grpo(
    logp_BT: Float[Array, "B T"],
    mask_BT: Bool[Array, "B T"],
    advantage: Float[Array, " B"] | Float[Array, "B T"],
    *,
    old_logp_BT: Float[Array, "B T"] | None = None,
    ref_logp_BT: Float[Array, "B T"] | None = None,
    beta: float = 0.04,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    denominator: Float[Array, ""] | float | None = None,
) -> tuple[Float[Array, ""], Metrics]:
    """The StepGRPO loss: the policy gradient of sampled completions, held near a frozen reference.

        loss = sum_i [ mean over the tokens of row i of ( - min(rho A, clip(rho) A) + beta k3 ) ] / denominator

    A row without tokens adds 0 but counts in the denominator.

    Args:
        logp_BT: log-probability of each token under the policy, in nats; what is differentiated.
        mask_BT: True up to and including the first end-of-sequence token; values elsewhere do not matter.
        advantage: of each row, or of each token.
        old_logp_BT: under the policy that sampled. None: the policy itself did, so the ratio is 1 and nothing is
            clipped, while the gradient stays that of the ratio.
        ref_logp_BT: under the frozen reference; needed if beta > 0. With beta 0 the KL is reported and not added.
        beta: weight of the KL term, in loss per nat.
        epsilon: how far the ratio may fall below 1 before it is clipped.
        epsilon_high: how far it may rise above 1; None takes `epsilon`.
        denominator: what the sum over rows is divided by. None: these rows. Micro-batches give the value that
            `losses.denominator` has for the whole batch, and then their losses sum to the whole batch's.

    Returns:
        The loss, and metrics: `kl` (mean per token, in nats) with a reference; `clip_ratio/*` with old_logp_BT.

    Raises:
        ValueError: beta > 0 without a reference.

    Source:
        Zhang et al., R1-VL, 2025, https://arxiv.org/abs/2503.12937;
        Shao et al., DeepSeekMath, 2024, equation 3, https://arxiv.org/abs/2402.03300.
    """
    if ref_logp_BT is None and beta != 0:
        raise ValueError(
            f"step_grpo: beta={beta} weighs the KL to a reference, but ref_logp_BT is None;"
            " give the reference's log-probabilities, or set beta=0"
        )
    epsilon_high = epsilon if epsilon_high is None else epsilon_high
    logp_BT = jnp.where(mask_BT, logp_BT, 0.0)  # here any NaN ends that flows back from outside the mask
    advantage_BT = jnp.broadcast_to(advantage[:, None] if advantage.ndim == 1 else advantage, mask_BT.shape)
    ratio_BT = policy_ratio(logp_BT, jax.lax.stop_gradient(logp_BT) if old_logp_BT is None else old_logp_BT)
    loss_BT = clipped_loss(ratio_BT, advantage_BT, epsilon=epsilon, epsilon_high=epsilon_high)

    metrics: Metrics = {}
    if ref_logp_BT is not None:
        kl_BT = k3_kl(logp_BT, ref_logp_BT)
        loss_BT += beta * kl_BT
        metrics["kl"] = masked_mean(kl_BT, mask_BT)
    if old_logp_BT is not None:
        metrics |= clip_metrics(ratio_BT, advantage_BT, mask_BT, epsilon=epsilon, epsilon_high=epsilon_high)
    return _mean_of_rows(loss_BT, mask_BT, denominator), metrics


def denominator(mask_BT: Bool[Array, "B T"]) -> Float[Array, ""]:
    """What the sum over rows is divided by: the number of rows, those without tokens included."""
    return jnp.float32(mask_BT.shape[0])


def supervised(
    logp_BT: Float[Array, "B T"], mask_BT: Bool[Array, "B T"], *, denominator: Float[Array, ""] | float | None = None
) -> tuple[Float[Array, ""], Metrics]:
    """Negative log-likelihood of given completions, in nats per token: every token of the batch weighs the same.

    Args:
        logp_BT: log-probability of each wanted token.
        mask_BT: True where a token is wanted; values elsewhere do not matter.
        denominator: tokens the sum is divided by. None: those of these rows. Micro-batches give the number of wanted
            tokens of the whole batch, and then their losses sum to the whole batch's.

    Returns:
        The loss, and as metric the `perplexity` of these rows.
    """
    num_tokens = jnp.maximum(jnp.sum(mask_BT), 1)
    total = -masked_sum(logp_BT, mask_BT)
    loss = total / (num_tokens if denominator is None else denominator)
    return loss, {"perplexity": jnp.exp(total / num_tokens)}


def _mean_of_rows(
    loss_BT: Float[Array, "B T"], mask_BT: Bool[Array, "B T"], denominator_of_batch: Float[Array, ""] | float | None
) -> Float[Array, ""]:
    """Mean over the tokens of a row, then over the rows of the batch (loss_type "grpo")."""
    divisor = denominator(mask_BT) if denominator_of_batch is None else denominator_of_batch
    return jnp.sum(masked_mean(loss_BT, mask_BT, axis=1)) / divisor
