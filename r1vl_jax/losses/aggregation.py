"""From the losses of tokens to that of a batch: what is averaged over what."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from r1vl_jax.losses.masked import masked_mean, masked_sum

LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo")
OVER_GENERATION = ("dapo", "cispo")  # divided by the tokens of a whole generation, though it feeds several updates


def aggregate(
    loss_BT: Float[Array, "B T"],
    mask_BT: Bool[Array, "B T"],
    *,
    loss_type: str,
    denominator: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """Sum over rows of their mean ("grpo") or over all tokens (every other type), divided by the denominator."""
    of_row = masked_mean if loss_type == "grpo" else masked_sum
    return jnp.sum(of_row(loss_BT, mask_BT, axis=1)) / denominator


def denominator(
    mask_BT: Bool[Array, "B T"], *, loss_type: str = "grpo", max_completion_length: int | None = None
) -> Float[Array, ""]:
    """What the loss of a batch is divided by; rows without tokens count as rows.

        grpo            B
        bnpo            tokens of the batch, at least 1
        dr_grpo         B * max_completion_length
        dapo, cispo     tokens of the whole generation batch, at least 1

    Args:
        mask_BT: of all rows of the batch that the definition names, over all micro-batches and processes; for dapo and
            cispo of all that were sampled together, though they be spread over several updates.
        max_completion_length: limit of a completion, in tokens; for dr_grpo.

    Raises:
        ValueError: an unknown `loss_type`, or dr_grpo without `max_completion_length`.

    Source:
        bnpo, dapo: Yu et al., DAPO, 2025, https://arxiv.org/abs/2503.14476;
        dr_grpo: Liu et al., 2025, https://arxiv.org/abs/2503.20783.
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
