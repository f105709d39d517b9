"""What completions count for that reach the limit of length, or come near it."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def mask_truncated(mask_BT: Bool[Array, "B T"], has_ended_B: Bool[Array, " B"]) -> Bool[Array, "B T"]:
    """Takes completions that were cut off at the limit out of the loss; their rows become empty.

    Source:
        Yu et al., DAPO, 2025, section 3.4, https://arxiv.org/abs/2503.14476.
    """
    return mask_BT & has_ended_B[:, None]


def soft_overlong_penalty(
    length_B: Int[Array, " B"], *, max_completion_length: int, soft_punish_cache: int
) -> Float[Array, " B"]:
    """A penalty, to be added to the reward, that grows over the last tokens before the limit.

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
