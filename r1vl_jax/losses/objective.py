"""The objectives: StepGRPO and its family (policy term plus beta times the KL term), and the supervised loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from r1vl_jax.losses import aggregation
from r1vl_jax.losses.masked import masked_mean, masked_sum
from r1vl_jax.losses.policy_gradient import cispo_loss, clip_metrics, clipped_loss, k3_kl, policy_ratio

Metrics = dict[str, Float[Array, ""]]

IMPORTANCE_SAMPLING_LEVELS = ("token", "sequence")


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
    delta: float | None = None,
    loss_type: str = "grpo",
    importance_sampling_level: str = "token",
    use_bias_correction_kl: bool = False,
    max_completion_length: int | None = None,
    weight_BT: Float[Array, "B T"] | None = None,
    denominator: Float[Array, ""] | float | None = None,
) -> tuple[Float[Array, ""], Metrics]:
    """The StepGRPO loss and its family: clipped policy gradient of sampled completions, with a KL penalty.

        l = - w min( min(rho, delta) A, clip(rho, 1 - epsilon, 1 + epsilon_high) A ) + beta k3      of each token
        grpo     sum over rows of [ mean of l over the row's tokens ] / denominator
        others   sum over tokens of l / denominator; "cispo" has another policy term, see `policy_gradient.cispo_loss`

    The KL term beta k3 is added here and nowhere else; k3 itself is `policy_gradient.k3_kl`. On-policy the value of the
    loss is near 0, since rho = 1 and the advantages of a group sum to 0; its gradient is not.

    Args:
        logp_BT: log-probability of each token under the policy, in nats; the argument to differentiate.
        mask_BT: True up to and including the first end-of-sequence token; values elsewhere are ignored. A row may be
            empty: it adds 0, but counts as a row.
        advantage: A, of each row or of each token, in standard deviations.
        old_logp_BT: log-probability under the policy that sampled, in nats. None: on-policy, the ratio is 1 and nothing
            is clipped, while the gradient is that of the ratio.
        ref_logp_BT: log-probability under the frozen reference, in nats; needed if beta > 0. With beta 0 the KL is
            reported but not added.
        beta: weight of the KL term, in loss per nat.
        epsilon: how far the ratio may fall below 1 before it is clipped.
        epsilon_high: how far it may rise above 1; None: `epsilon`. For "cispo", the upper bound of the ratio itself.
        delta: upper bound of the ratio where the advantage is negative, greater than 1 + epsilon_high; None: no bound.
        loss_type: "grpo", "bnpo", "dr_grpo", "dapo" or "cispo"; see `denominator` for what the sum is divided by.
        importance_sampling_level: "token", or "sequence": one ratio for a row (GSPO).
        use_bias_correction_kl: multiplies the KL term by the ratio.
        max_completion_length: limit of a completion, in tokens; needed by "dr_grpo" if `denominator` is None.
        weight_BT: w, of the policy term but not of the KL term, for instance `egsw_weight`; a constant. None: 1.
        denominator: what the sum is divided by. None: computed from these rows. For micro-batches, give the value of
            `losses.denominator` for the whole batch: then their losses sum to the loss of the whole batch.

    Returns:
        The loss; and metrics: `kl` (mean per token, in nats) with a reference, `clip_ratio/*` with old_logp_BT.

    Raises:
        ValueError: beta > 0 without a reference, an unknown choice, or one without the setting that it needs.

    Source:
        Zhang et al., R1-VL, 2025, https://arxiv.org/abs/2503.12937;
        Shao et al., DeepSeekMath, 2024, equation 3, https://arxiv.org/abs/2402.03300; of the variants: see
        `policy_gradient` and `aggregation`.
    """
    _check_settings(loss_type, importance_sampling_level, beta, epsilon_high, has_reference=ref_logp_BT is not None)
    if denominator is None:
        denominator = aggregation.denominator(mask_BT, loss_type=loss_type, max_completion_length=max_completion_length)
    epsilon_high = epsilon if epsilon_high is None else epsilon_high

    def zero_outside(value_BT: Float[Array, "B T"]) -> Float[Array, "B T"]:
        """The mask on the inputs (beside that on the sums): no NaN gradient from padding (double-where)."""
        return jnp.where(mask_BT, value_BT, 0.0)

    logp_BT = zero_outside(logp_BT)
    advantage_BT = zero_outside(advantage[:, None] if advantage.ndim == 1 else advantage)
    old_BT = jax.lax.stop_gradient(logp_BT) if old_logp_BT is None else zero_outside(old_logp_BT)
    ratio_BT = policy_ratio(logp_BT, old_BT, mask_BT, importance_sampling_level=importance_sampling_level)
    if loss_type == "cispo":
        lower, upper = 0.0, epsilon_high
        loss_BT = cispo_loss(logp_BT, ratio_BT, advantage_BT, epsilon_high=epsilon_high)
    else:
        lower, upper = 1.0 - epsilon, 1.0 + epsilon_high
        bounds = {"epsilon": epsilon, "epsilon_high": epsilon_high, "delta": delta}
        is_on_policy = old_logp_BT is None
        loss_BT = -ratio_BT * advantage_BT if is_on_policy else clipped_loss(ratio_BT, advantage_BT, **bounds)
    if weight_BT is not None:
        loss_BT *= zero_outside(weight_BT)

    metrics: Metrics = {}
    if ref_logp_BT is not None:
        kl_BT = k3_kl(logp_BT, zero_outside(ref_logp_BT))
        loss_BT += beta * (kl_BT * ratio_BT if use_bias_correction_kl else kl_BT)
        metrics["kl"] = masked_mean(kl_BT, mask_BT)
    if old_logp_BT is not None:
        metrics |= clip_metrics(ratio_BT, advantage_BT, mask_BT, lower=lower, upper=upper)
    return aggregation.aggregate(loss_BT, mask_BT, loss_type=loss_type, denominator=denominator), metrics


def _check_settings(
    loss_type: str, level: str, beta: float, epsilon_high: float | None, *, has_reference: bool
) -> None:
    aggregation.check_loss_type(loss_type)
    if level not in IMPORTANCE_SAMPLING_LEVELS:
        raise ValueError(
            f"step_grpo: importance_sampling_level={level!r}: expected one of {IMPORTANCE_SAMPLING_LEVELS}"
        )
    if not has_reference and beta != 0:
        raise ValueError(
            f"step_grpo: beta={beta} weighs the KL to a reference, but ref_logp_BT is None;"
            " give the reference's log-probabilities, or set beta=0"
        )
    if loss_type == "cispo" and epsilon_high is None:
        raise ValueError(
            "step_grpo: loss_type='cispo' needs epsilon_high, the upper bound of the ratio, but it is None; set 5.0"
        )


def supervised(
    logp_BT: Float[Array, "B T"], mask_BT: Bool[Array, "B T"], *, denominator: Float[Array, ""] | float | None = None
) -> tuple[Float[Array, ""], Metrics]:
    """Cross-entropy of target completions, in nats per token; every token of the batch has the same weight.

        loss = - sum_it lp_it m_it / max(sum_it m_it, 1)

    Args:
        logp_BT: log-probability of each target token, in nats.
        mask_BT: True where a token is a target; values elsewhere are ignored.
        denominator: number of tokens to divide the sum by. None: those of these rows. For micro-batches, give the
            number of target tokens of the whole batch: then their losses sum to the loss of the whole batch.

    Returns:
        The loss; and as metric the `perplexity` of these rows.
    """
    num_tokens = jnp.maximum(jnp.sum(mask_BT), 1)
    total = -masked_sum(logp_BT, mask_BT)
    loss = total / (num_tokens if denominator is None else denominator)
    return loss, {"perplexity": jnp.exp(total / num_tokens)}
