"""Masked reductions that everybody shares. A value outside the mask may be anything, NaN included."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def masked_sum(value: Float[Array, "..."], mask: Bool[Array, "..."], *, axis: int | None = None) -> Float[Array, "..."]:
    """Sum of the values where the mask is True; 0 where it nowhere is."""
    return jnp.sum(jnp.where(mask, value, 0.0), axis=axis)


def masked_mean(
    value: Float[Array, "..."], mask: Bool[Array, "..."], *, axis: int | None = None
) -> Float[Array, "..."]:
    """Mean of the values where the mask is True; 0 where it nowhere is."""
    return masked_sum(value, mask, axis=axis) / jnp.maximum(jnp.sum(mask, axis=axis), 1)
