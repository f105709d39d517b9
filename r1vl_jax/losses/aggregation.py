"""Aggregation of token losses to the loss of a batch: over which tokens and rows it is averaged."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from r1vl_jax.losses.masked import masked_mean, masked_sum

LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo")
# Divided by the tokens of a whole generation batch, even if it is split over several updates.
OVER_GENERATION = ("dapo", "cispo")


def aggregate(
    loss_BT: Float[Array, "B T"],
    mask_BT: Bool[Array, "B T"],
    *,
    loss_type: str,
    denominator: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """Sums the losses of tokens over the batch and divides by the denominator of the loss type.

        grpo      sum_i ( sum_t l_it m_it / max(L_i, 1) ) / denominator        L_i = sum_t m_it
        others    sum_it l_it m_it / denominator

    Args:
        loss_BT: loss of each token.
        mask_BT: m, True where a token counts.
        denominator: from `denominator(...)`; of the whole batch if these rows are a micro-batch.

    Source:
        "grpo": Shao et al., DeepSeekMath, 2024, equation 3, https://arxiv.org/abs/2402.03300;
        others: see `denominator`.
    """
    reduce_row = masked_mean if loss_type == "grpo" else masked_sum
    return jnp.sum(reduce_row(loss_BT, mask_BT, axis=1)) / denominator


def denominator(
    mask_BT: Bool[Array, "B T"], *, loss_type: str = "grpo", max_completion_length: int | None = None
) -> Float[Array, ""]:
    """The denominator of a batch's loss; rows without tokens count as rows.

        grpo            B
        bnpo            tokens of the batch, at least 1
        dr_grpo         B * max_completion_length
        dapo, cispo     tokens of the whole generation batch, at least 1

    Args:
        mask_BT: of all rows of the batch, over all micro-batches and processes; for dapo and cispo of all rows that
            were sampled together, even if they are split over several updates.
        max_completion_length: limit of a completion, in tokens; for dr_grpo.

    Raises:
        ValueError: an unknown `loss_type`, or dr_grpo without `max_completion_length`.

    Source:
        grpo: Shao et al., DeepSeekMath, 2024, https://arxiv.org/abs/2402.03300;
        bnpo, dapo: Yu et al., DAPO, 2025, https://arxiv.org/abs/2503.14476;
        dr_grpo: Liu et al., Dr. GRPO, 2025, https://arxiv.org/abs/2503.20783;
        cispo: MiniMax-M1, 2025, https://arxiv.org/abs/2506.13585.
    """
    check_loss_type(loss_type)
    if loss_type == "grpo":
        return jnp.float32(mask_BT.shape[0])
    if loss_type != "dr_grpo":
        return jnp.maximum(jnp.sum(mask_BT), 1).astype(jnp.float32)
    if max_completion_length is None:
        raise ValueError(
            "denominator: loss_type='dr_grpo' divides by rows * max_completion_length, but max_completion_length is"
            " None; give the limit that completions were sampled with"
        )
    return jnp.float32(mask_BT.shape[0] * max_completion_length)


def check_loss_type(loss_type: str) -> None:
    """Refuses an unknown name."""
    if loss_type not in LOSS_TYPES:
        raise ValueError(f"loss_type={loss_type!r}: expected one of {LOSS_TYPES}")
