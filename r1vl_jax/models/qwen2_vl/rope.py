"""Rotary position embeddings (RoPE): of text in time, height and width (M-RoPE), of image patches in row and column.

A head of width H is H/2 pairs of components (i, i + H/2), and pair i is rotated by position * inverse_frequency[i].
With positions on several axes, each pair uses one of them; which one is the only difference between text and vision:

    text     | time ... | height ... | width ... |   `mrope_section` pairs each, of one falling sequence of frequencies
    vision   | row ... | column ... |                half of the pairs each, both with the same frequencies

Sources: Su et al., RoFormer, 2021, https://arxiv.org/abs/2104.09864; Wang et al., Qwen2-VL, 2024, section 2.1,
https://arxiv.org/abs/2409.12191.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from r1vl_jax.arrays import bundle
from r1vl_jax.models.qwen2_vl.config import Config

_VISION_THETA = 10_000.0  # a constant in Qwen's code, not in config.json


@bundle
class RopeAngles:
    """Cosine and sine of every token's angle for each pair of components, float32."""

    cos: Float[Array, "B T H//2"]
    sin: Float[Array, "B T H//2"]


def text_rope_angles(position_3BT: Int[Array, "3 B T"], config: Config) -> RopeAngles:
    """M-RoPE: the first pairs rotate with time, the next with height, the last with width (`mrope_section` of each).

    Text tokens have the same position on all three axes, for which this is plain RoPE.
    """
    axis_of_pair = np.repeat(np.arange(3), config.mrope_section)
    return _rope_angles(
        jnp.moveaxis(position_3BT, 0, -1), axis_of_pair, _inverse_frequencies(config.head_dim, config.rope_theta)
    )


def vision_rope_angles(position_ZM2: Int[Array, "Z M 2"], head_dim: int) -> RopeAngles:
    """2D RoPE: the first half of the pairs rotates with the row, the second with the column, at equal frequencies."""
    inverse_frequency = _inverse_frequencies(head_dim // 2, _VISION_THETA)
    axis_of_pair = np.repeat(np.arange(2), len(inverse_frequency))
    return _rope_angles(position_ZM2, axis_of_pair, np.tile(inverse_frequency, 2))


def apply_rope(x_BTNH: Float[Array, "B T N H"], angles: RopeAngles) -> Float[Array, "B T N H"]:
    """Rotates the component pairs of every head by its token's angles; in float32, returned in the dtype of x.

    Pairs are (i, i + H/2), "rotate half" as in Hugging Face's models, not the neighbours (2i, 2i + 1) of the paper.
    """
    # | cos -sin |   | first  |
    # | sin  cos | x | second |    for every pair
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    cos, sin = angles.cos[:, :, None], angles.sin[:, :, None]
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BTNH.dtype)


def _inverse_frequencies(dim: int, theta: float) -> np.ndarray:
    """theta^(-2i / dim), radians per position, of the dim/2 pairs: from 1 falling geometrically towards 1 / theta."""
    return (1.0 / theta ** (np.arange(0, dim, 2, dtype=np.float32) / dim)).astype(np.float32)


def _rope_angles(position: Int[Array, "B T 3"], axis_of_pair: np.ndarray, inverse_frequency: np.ndarray) -> RopeAngles:
    # Float32 also where the model is bfloat16, which has no integers above 256 exactly: positions would be rounded.
    angle = position[..., axis_of_pair].astype(jnp.float32) * inverse_frequency[None, None]
    return RopeAngles(jnp.cos(angle), jnp.sin(angle))
