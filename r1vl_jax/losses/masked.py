"""Masked reductions. Values outside the mask may be anything, NaN included: they reach neither result nor gradient."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def masked_sum(value: Float[Array, "..."], mask: Bool[Array, "..."], *, axis: int | None = None) -> Float[Array, "..."]:
    """Sum of the values where the mask is True; 0 if it is True nowhere."""
    return jnp.sum(jnp.where(mask, value, 0.0), axis=axis)


def masked_mean(
    value: Float[Array, "..."], mask: Bool[Array, "..."], *, axis: int | None = None
) -> Float[Array, "..."]:
    """Mean of the values where the mask is True; 0 if it is True nowhere."""
    return masked_sum(value, mask, axis=axis) / jnp.maximum(jnp.sum(mask, axis=axis), 1)
