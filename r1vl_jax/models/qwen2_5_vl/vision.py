"""Qwen2.5-VL's vision tower: Qwen2-VL's with RMSNorm, a gated MLP, and blocks that see windows of a frame only.

In transformers patches are sorted by window and attention runs over runs of them. Attention does not ask for order, so
here patches stay where they are and a window is a segment number.

Source: Bai et al., Qwen2.5-VL, 2025, section 2.1, https://arxiv.org/abs/2502.13923.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Int

from r1vl_jax.arrays import PackedVision
from r1vl_jax.models.qwen2_5_vl.config import VisionConfig
from r1vl_jax.models.qwen2_vl.layers import RMSNorm
from r1vl_jax.models.qwen2_vl.text import MLP
from r1vl_jax.models.qwen2_vl.vision import Vision


class WindowedVision(Vision):
    """The whole tower: patches in, features in the text's width out."""

    config: VisionConfig

    def __init__(self, config: VisionConfig, feature_dim: int, **settings: Any):
        super().__init__(config, feature_dim, norm=_rms_norm, mlp=_gated_mlp, **settings)

    def segments(self, vision: PackedVision) -> Int[Array, "L Z M"]:
        """Who sees whom, block by block: those of a window, or in a few blocks those of a frame."""
        is_full_L = np.isin(np.arange(self.config.depth), self.config.fullatt_block_indexes)
        window_ZM = windows(vision, self.config.window_patches)
        return jnp.where(is_full_L[:, None, None], vision.segment_ZM, window_ZM)


def windows(vision: PackedVision, side: int) -> Int[Array, "Z M"]:
    """The number of each patch's window, no two windows of a packed row having the same; 0 is padding.

    Windows tile each frame from its upper left corner; those at its right and lower edge may be smaller.

    Args:
        side: of a window, in patches.
    """
    row_ZM, column_ZM = vision.position_ZM2[..., 0] // side, vision.position_ZM2[..., 1] // side
    num_rows_Z1, num_columns_Z1 = (1 + jnp.max(index, axis=1, keepdims=True) for index in (row_ZM, column_ZM))
    number_ZM = (vision.segment_ZM * num_rows_Z1 + row_ZM) * num_columns_Z1 + column_ZM
    return jnp.where(vision.segment_ZM == 0, 0, number_ZM)


def _rms_norm(dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> RMSNorm:
    return RMSNorm(dim, epsilon=1e-6, dtype=dtype, rngs=rngs)


def _gated_mlp(config: VisionConfig, *, dtype: DTypeLike, rngs: nnx.Rngs) -> MLP:
    return MLP(config.embed_dim, config.intermediate_size, use_bias=True, dtype=dtype, rngs=rngs)
