"""What decoding remembers: keys and values of the prompts, shared and read only, and of each row's own tokens.

One array per layer, so that a loop carries and updates each in place; stacked, XLA copies them at every step. Heads
stand before columns, and columns of keys behind their width, as the products want them; otherwise XLA turns every cache
around at every step, or reads keys three times as slowly.
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

    key_PKHS: list[Float[Array, "P K H S"]]
    value_PKSH: list[Float[Array, "P K S H"]]
    mask_PS: Bool[Array, "P S"]


@bundle
class SuffixCache:
    """Keys (rotated) and values of the tokens each of B rows has drawn, layer by layer; column = decode step."""

    key_BKHT: list[Float[Array, "B K H T"]]
    value_BKTH: list[Float[Array, "B K T H"]]

    @classmethod
    def empty(cls, config: Config, rows: int, length: int, dtype: DTypeLike) -> "SuffixCache":
        """Room for `length` tokens of each row."""
        shape, layers = (rows, config.num_key_value_heads), range(config.num_hidden_layers)
        return cls(
            [jnp.zeros((*shape, config.head_dim, length), dtype) for _ in layers],
            [jnp.zeros((*shape, length, config.head_dim), dtype) for _ in layers],
        )
