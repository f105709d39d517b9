"""From terms of single tokens to one number: the StepGRPO objective, and the supervised one of the warm-up."""

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
    """The StepGRPO loss and its family: the policy gradient of sampled completions, held near a frozen reference.

        l = - w min( min(rho, delta) A, clip(rho, 1 - epsilon, 1 + epsilon_high) A ) + beta k3      of each token
        grpo     sum over rows of [ mean of l over the row's tokens ] / denominator
        others   sum over tokens of l / denominator; "cispo" has its own policy term, see `policy.cispo_loss`

    Args:
        logp_BT: log-probability of each token under the policy, in nats; what is differentiated.
        mask_BT: True up to and including the first end-of-sequence token; values elsewhere do not matter. A row may be
            empty: it adds 0, and counts as a row all the same.
        advantage: of each row, or of each token.
        old_logp_BT: under the policy that sampled. None: the policy itself did, so the ratio is 1 and nothing is
            clipped, while the gradient stays that of the ratio.
        ref_logp_BT: under the frozen reference; needed if beta > 0. With beta 0 the KL is reported and not added.
        beta: weight of the KL term, in loss per nat.
        epsilon: how far the ratio may fall below 1 before it is clipped.
        epsilon_high: how far it may rise above 1; None takes `epsilon`. For "cispo", the bound of the ratio itself.
        delta: bound of the ratio where the advantage is negative, greater than 1 + epsilon_high; None is none.
        loss_type: "grpo", "bnpo", "dr_grpo", "dapo" or "cispo"; what the sum is divided by, see `denominator`.
        importance_sampling_level: "token", or "sequence": one ratio for a row (GSPO).
        use_bias_correction_kl: multiplies the KL term by the ratio.
        max_completion_length: limit of a completion, in tokens; needed by "dr_grpo" if `denominator` is None.
        weight_BT: of the policy term, not of the KL, for instance of `egsw_weight`; a constant. None is 1.
        denominator: what the sum is divided by. None: what these rows imply. Micro-batches give the value that
            `losses.denominator` has for the whole batch, and then their losses sum to the whole batch's.

    Returns:
        The loss, and metrics: `kl` (mean per token, in nats) with a reference; `clip_ratio/*` with old_logp_BT.

    Raises:
        ValueError: beta > 0 without a reference, an unknown choice, or one without the setting that it needs.

    Source:
        Zhang et al., R1-VL, 2025, https://arxiv.org/abs/2503.12937;
        Shao et al., DeepSeekMath, 2024, equation 3, https://arxiv.org/abs/2402.03300; see `policy` and `aggregation`.
    """
    _check_settings(loss_type, importance_sampling_level, beta, epsilon_high, has_reference=ref_logp_BT is not None)
    if denominator is None:
        denominator = aggregation.denominator(mask_BT, loss_type=loss_type, max_completion_length=max_completion_length)
    epsilon_high = epsilon if epsilon_high is None else epsilon_high

    def inside(value_BT: Float[Array, "B T"]) -> Float[Array, "B T"]:
        return jnp.where(mask_BT, value_BT, 0.0)  # here any NaN ends that flows back from outside the mask

    logp_BT = inside(logp_BT)
    advantage_BT = inside(advantage[:, None] if advantage.ndim == 1 else advantage)
    old_BT = jax.lax.stop_gradient(logp_BT) if old_logp_BT is None else inside(old_logp_BT)
    ratio_BT = policy_ratio(logp_BT, old_BT, mask_BT, importance_sampling_level=importance_sampling_level)
    if loss_type == "cispo":
        lowest, highest = 0.0, epsilon_high
        loss_BT = cispo_loss(logp_BT, ratio_BT, advantage_BT, epsilon_high=epsilon_high)
    else:
        lowest, highest = 1.0 - epsilon, 1.0 + epsilon_high
        bounds = {"epsilon": epsilon, "epsilon_high": epsilon_high, "delta": delta}
        is_on_policy = old_logp_BT is None
        loss_BT = -ratio_BT * advantage_BT if is_on_policy else clipped_loss(ratio_BT, advantage_BT, **bounds)
    if weight_BT is not None:
        loss_BT *= inside(weight_BT)

    metrics: Metrics = {}
    if ref_logp_BT is not None:
        kl_BT = k3_kl(logp_BT, inside(ref_logp_BT))
        loss_BT += beta * (kl_BT * ratio_BT if use_bias_correction_kl else kl_BT)
        metrics["kl"] = masked_mean(kl_BT, mask_BT)
    if old_logp_BT is not None:
        metrics |= clip_metrics(ratio_BT, advantage_BT, mask_BT, lowest=lowest, highest=highest)
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
            "step_grpo: loss_type='cispo' needs epsilon_high, the bound of the ratio, but it is None; set 5.0"
        )


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
