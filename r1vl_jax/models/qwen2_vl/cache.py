"""What decoding remembers: keys and values of the prompts, shared and read only, and of each row's own tokens.

One array per layer, so that a loop carries and updates each in place; stacked, XLA copies them at every step. Heads
stand before columns, as the products want them; otherwise XLA turns every cache around at every step.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float

from r1vl_jax.arrays import bundle
from r1vl_jax.models.qwen2_vl.config import Config


@bundle
class PrefixCache:
    """Keys (rotated) and values of P prompts, layer by layer.

    Attributes:
        mask_PS: True where the prompt's token is real.
    """

    key_PKSH: list[Float[Array, "P K S H"]]
    value_PKSH: list[Float[Array, "P K S H"]]
    mask_PS: Bool[Array, "P S"]


@bundle
class SuffixCache:
    """Keys (rotated) and values of the tokens each of B rows has drawn, layer by layer; column = decode step."""

    key_BKTH: list[Float[Array, "B K T H"]]
    value_BKTH: list[Float[Array, "B K T H"]]

    @classmethod
    def empty(cls, config: Config, rows: int, length: int, dtype: DTypeLike) -> "SuffixCache":
        """Room for `length` tokens of each row."""
        shape = (rows, config.num_key_value_heads, length, config.head_dim)
        layers = range(config.num_hidden_layers)
        return cls([jnp.zeros(shape, dtype) for _ in layers], [jnp.zeros(shape, dtype) for _ in layers])
