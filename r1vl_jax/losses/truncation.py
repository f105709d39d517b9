"""DAPO's treatment of completions at the length limit: masked out of the loss, or penalised in the reward."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def mask_truncated(mask_BT: Bool[Array, "B T"], has_ended_B: Bool[Array, " B"]) -> Bool[Array, "B T"]:
    """Masks completions that were truncated at the length limit out of the loss; their rows become empty.

        m'_it = m_it [row i has ended with an end-of-sequence token]

    Source:
        Yu et al., DAPO, 2025, section 3.4 (overlong filtering), https://arxiv.org/abs/2503.14476.
    """
    return mask_BT & has_ended_B[:, None]


def soft_overlong_penalty(
    length_B: Int[Array, " B"], *, max_completion_length: int, soft_punish_cache: int
) -> Float[Array, " B"]:
    """A penalty to add to the reward, which grows linearly over the last tokens before the length limit.

        0                                                         if L <= Lmax - Lc
        (Lmax - Lc - L) / Lc                                      up to Lmax
        -1                                                        above

    Args:
        length_B: tokens L of each completion.
        max_completion_length: Lmax, in tokens.
        soft_punish_cache: Lc, in tokens, at least 1.

    Returns:
        The penalty, in reward units, in [-1, 0].

    Source:
        Yu et al., DAPO, 2025, equation 13, https://arxiv.org/abs/2503.14476.
    """
    excess_B = length_B - (max_completion_length - soft_punish_cache)
    return -jnp.clip(excess_B / soft_punish_cache, 0.0, 1.0)
