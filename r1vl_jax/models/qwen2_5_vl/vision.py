"""Qwen2.5-VL's vision tower: Qwen2-VL's with RMSNorm, a gated MLP, and window attention in most blocks.

transformers sorts patches by window, attends within contiguous runs, and undoes the sort. Attention is indifferent to
the order of its tokens, so here patches keep their order and window attention is attention with other segment ids.

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
    """The vision tower: patches in, features of the text decoder's width out."""

    config: VisionConfig

    def __init__(self, config: VisionConfig, feature_dim: int, **settings: Any):
        super().__init__(config, feature_dim, norm=_rms_norm, mlp=_gated_mlp, **settings)

    def segment_ids(self, vision: PackedVision) -> Int[Array, "L Z M"]:
        """Segment ids of each block's attention: windows, or in the blocks with full attention whole frames."""
        is_full_L = np.isin(np.arange(self.config.depth), self.config.fullatt_block_indexes)
        window_ZM = window_ids(vision, self.config.window_patches)
        # One array with a layer axis, not a branch in the block: all blocks are the body of one scan.
        return jnp.where(is_full_L[:, None, None], vision.segment_ZM, window_ZM)


def window_ids(vision: PackedVision, side: int) -> Int[Array, "Z M"]:
    """Segment ids of window attention: for each patch an id of its window, unique in its packed row; 0 is padding.

    Windows tile each frame from its upper left corner; those at its right and lower edge may be smaller.

    Args:
        side: of a window, in patches.
    """
    row_ZM, column_ZM = vision.position_ZM2[..., 0] // side, vision.position_ZM2[..., 1] // side
    # (frame, window row, window column) as one number, in mixed radix. The radix is that of the packed row, not of the
    # batch: a maximum over all rows would make batch shards communicate.
    num_rows_Z1, num_columns_Z1 = (1 + jnp.max(index, axis=1, keepdims=True) for index in (row_ZM, column_ZM))
    window_ZM = (vision.segment_ZM * num_rows_Z1 + row_ZM) * num_columns_Z1 + column_ZM
    return jnp.where(vision.segment_ZM == 0, 0, window_ZM)


def _rms_norm(dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> RMSNorm:
    return RMSNorm(dim, epsilon=1e-6, dtype=dtype, rngs=rngs)


def _gated_mlp(config: VisionConfig, *, dtype: DTypeLike, rngs: nnx.Rngs) -> MLP:
    return MLP(config.embed_dim, config.intermediate_size, use_bias=True, dtype=dtype, rngs=rngs)
