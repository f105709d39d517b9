"""Key/value caches of decoding: one of the prompts, shared by their samples and read only, one of the completions.

There is one array per layer, not one with a layer axis: a loop carries and updates each in place, while XLA would copy
the stacked array at every step.

Layouts are those in which the two matmuls of attention read them: heads before columns, and in keys the columns last
[K, H, S]. With any other, XLA transposes whole caches at every step, or reads keys three times as slowly.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float

from r1vl_jax.arrays import bundle
from r1vl_jax.models.qwen2_vl.config import Config


@bundle
class PrefixCache:
    """Keys (after RoPE) and values of P prompts, a list over layers.

    Attributes:
        mask_PS: True where the prompt's token is real.
    """

    # Keys are stored transposed: Q K^T contracts H and reads them along S.
    key_PKHS: list[Float[Array, "P K H S"]]
    value_PKSH: list[Float[Array, "P K S H"]]
    mask_PS: Bool[Array, "P S"]


@bundle
class SuffixCache:
    """Keys (after RoPE) and values of the tokens sampled for B rows, a list over layers; column = decode step."""

    key_BKHT: list[Float[Array, "B K H T"]]
    value_BKTH: list[Float[Array, "B K T H"]]

    @classmethod
    def empty(cls, config: Config, rows: int, length: int, dtype: DTypeLike) -> "SuffixCache":
        """Zeros for `length` tokens of each row."""
        shape, layers = (rows, config.num_key_value_heads), range(config.num_hidden_layers)
        return cls(
            [jnp.zeros((*shape, config.head_dim, length), dtype) for _ in layers],
            [jnp.zeros((*shape, length, config.head_dim), dtype) for _ in layers],
        )
