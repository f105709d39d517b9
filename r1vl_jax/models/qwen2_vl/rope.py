"""Rotary positions: of text in time, height and width (M-RoPE), and of patches in row and column.

A head of width H is turned in H/2 planes, plane i spanned by components i and i + H/2. Each plane has a frequency and
turns with one of the token's coordinates; which one is the only difference between text and vision.

Source: Wang et al., Qwen2-VL, 2024, section 2.1, https://arxiv.org/abs/2409.12191.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from r1vl_jax.arrays import bundle
from r1vl_jax.models.qwen2_vl.config import Config

_VISION_THETA = 10_000.0


@bundle
class RopeAngles:
    """Cosine and sine of every token's angle in each plane, float32."""

    cos: Float[Array, "B T H//2"]
    sin: Float[Array, "B T H//2"]


def text_rope_angles(position_3BT: Int[Array, "3 B T"], config: Config) -> RopeAngles:
    """The first planes turn with time, the next with height, the last with width, as many as `mrope_section` says."""
    coordinate = np.repeat(np.arange(3), config.mrope_section)
    return _rope_angles(
        jnp.moveaxis(position_3BT, 0, -1), coordinate, _inverse_frequencies(config.head_dim, config.rope_theta)
    )


def vision_rope_angles(position_ZM2: Int[Array, "Z M 2"], head_dim: int) -> RopeAngles:
    """The first half of the planes turns with the row, the second with the column; both have the same frequencies."""
    frequency = _inverse_frequencies(head_dim // 2, _VISION_THETA)
    return _rope_angles(position_ZM2, np.repeat(np.arange(2), len(frequency)), np.tile(frequency, 2))


def apply_rope(x_BTNH: Float[Array, "B T N H"], rotation: RopeAngles) -> Float[Array, "B T N H"]:
    """Turns every head by its token's angles; computed in float32, returned in the dtype it came in."""
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    cos, sin = rotation.cos[:, :, None], rotation.sin[:, :, None]
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_BTNH.dtype)


def _inverse_frequencies(dim: int, theta: float) -> np.ndarray:
    """Radians per unit of position: 1 for the first of dim/2 planes, falling geometrically towards 1 / theta."""
    return (1.0 / theta ** (np.arange(0, dim, 2, dtype=np.float32) / dim)).astype(np.float32)


def _rope_angles(position: Int[Array, "B T 3"], coordinate: np.ndarray, frequency: np.ndarray) -> RopeAngles:
    angle = position[..., coordinate].astype(jnp.float32) * frequency[None, None]
    return RopeAngles(jnp.cos(angle), jnp.sin(angle))
