"""The vision tower of Qwen2-VL: a ViT over packed patches, and the merger of each 2x2 square of patches to one feature.

The patches of all images of a shard are packed into one row and attend within their segment, so images of any size need
no padding to a common one. Other architectures subclass `Vision` with their norm, MLP and segment ids
(`models.qwen2_5_vl.vision`).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int

from r1vl_jax.arrays import PackedVision
from r1vl_jax.models.attention.attention import AttentionFn
from r1vl_jax.models.qwen2_vl.config import TowerConfig, VisionConfig
from r1vl_jax.models.qwen2_vl.layers import RESIDUAL_GAIN, LayerNorm, Scan, linear, stack
from r1vl_jax.models.qwen2_vl.rope import RopeAngles, apply_rope, vision_rope_angles

# Creates a norm or an MLP; called with its sizes, dtype and rngs.
ModuleFactory = Callable[..., Any]


def layer_norm(dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> LayerNorm:
    # Not the fast variance E[x^2] - E[x]^2, which cancels where the mean is large and which torch does not use.
    return LayerNorm(dim, epsilon=1e-6, use_fast_variance=False, dtype=dtype, rngs=rngs)


class PatchEmbed(nnx.Module):
    """Linear projection of flattened patches: the checkpoint's convolution, whose stride is its kernel size."""

    def __init__(self, config: TowerConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.proj = linear(config.patch_dim, config.embed_dim, use_bias=False, dtype=dtype, rngs=rngs)


class VisionAttention(nnx.Module):
    """Bidirectional attention among the patches of a segment: a frame, or a window of one."""

    def __init__(self, config: TowerConfig, *, dtype: DTypeLike, attend: AttentionFn, rngs: nnx.Rngs):
        self.num_heads, self.attend = config.num_heads, attend
        # One fused projection, as in the checkpoint; the output is | queries | keys | values |.
        self.qkv = linear(config.embed_dim, 3 * config.embed_dim, use_bias=True, dtype=dtype, rngs=rngs)
        self.proj = linear(
            config.embed_dim, config.embed_dim, use_bias=True, dtype=dtype, rngs=rngs, gain=RESIDUAL_GAIN
        )

    def __call__(
        self, x_ZME: Float[Array, "Z M E"], angles: RopeAngles, segment_ZM: Int[Array, "Z M"]
    ) -> Float[Array, "Z M E"]:
        query, key, value = (
            part.reshape(*x_ZME.shape[:2], self.num_heads, -1) for part in jnp.split(self.qkv(x_ZME), 3, axis=-1)
        )
        attended_ZMNH = self.attend(
            apply_rope(query, angles), apply_rope(key, angles), value, segment_BT=segment_ZM, is_causal=False
        )
        return self.proj(attended_ZMNH.reshape(x_ZME.shape))


class VisionMLP(nnx.Module):
    """fc2(quick_gelu(fc1(x))), with quick_gelu(x) = x sigmoid(1.702 x), an approximation of GELU."""

    def __init__(self, config: VisionConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        hidden_dim = config.mlp_ratio * config.embed_dim
        self.fc1 = linear(config.embed_dim, hidden_dim, use_bias=True, dtype=dtype, rngs=rngs)
        self.fc2 = linear(hidden_dim, config.embed_dim, use_bias=True, dtype=dtype, rngs=rngs, gain=RESIDUAL_GAIN)

    def __call__(self, x_ZME: Float[Array, "Z M E"]) -> Float[Array, "Z M E"]:
        hidden_ZMF = self.fc1(x_ZME)
        return self.fc2(hidden_ZMF * jax.nn.sigmoid(1.702 * hidden_ZMF))


class VisionBlock(nnx.Module):
    """A pre-norm transformer block: h = x + attention(norm(x)), then h + mlp(norm(h))."""

    def __init__(
        self,
        config: TowerConfig,
        *,
        norm: ModuleFactory,
        mlp: ModuleFactory,
        dtype: DTypeLike,
        attend: AttentionFn,
        rngs: nnx.Rngs,
    ):
        self.norm1 = norm(config.embed_dim, dtype=dtype, rngs=rngs)
        self.attn = VisionAttention(config, dtype=dtype, attend=attend, rngs=rngs)
        self.norm2 = norm(config.embed_dim, dtype=dtype, rngs=rngs)
        self.mlp = mlp(config, dtype=dtype, rngs=rngs)

    def __call__(
        self, x_ZME: Float[Array, "Z M E"], angles: RopeAngles, segment_ZM: Int[Array, "Z M"]
    ) -> Float[Array, "Z M E"]:
        x_ZME = x_ZME + self.attn(self.norm1(x_ZME), angles, segment_ZM)
        return x_ZME + self.mlp(self.norm2(x_ZME))


class Merger(nnx.Module):
    """Patch merger: concatenates the patches of a 2x2 square and projects them to one feature of the text's width."""

    def __init__(self, config: TowerConfig, feature_dim: int, *, norm: ModuleFactory, dtype: DTypeLike, rngs: nnx.Rngs):
        self.merged_dim = config.merge_length * config.embed_dim
        self.ln_q = norm(config.embed_dim, dtype=dtype, rngs=rngs)
        # Layers 0 and 2 of the checkpoint's nn.Sequential; layer 1 is the GELU.
        self.mlp_0 = linear(self.merged_dim, self.merged_dim, use_bias=True, dtype=dtype, rngs=rngs)
        self.mlp_2 = linear(self.merged_dim, feature_dim, use_bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, x_ZME: Float[Array, "Z M E"]) -> Float[Array, "Z M/4 D"]:
        # Patches are packed square by square, so a reshape concatenates the four of each.
        square = self.ln_q(x_ZME).reshape(x_ZME.shape[0], -1, self.merged_dim)
        # Exact GELU, as in torch; JAX's default is the tanh approximation.
        return self.mlp_2(jax.nn.gelu(self.mlp_0(square), approximate=False))


class Vision(nnx.Module):
    """The vision tower: patches in, features of the text decoder's width out."""

    def __init__(
        self,
        config: TowerConfig,
        feature_dim: int,
        *,
        norm: ModuleFactory = layer_norm,
        mlp: ModuleFactory = VisionMLP,
        dtype: DTypeLike,
        scan: Scan,
        attend: AttentionFn,
        rngs: nnx.Rngs,
    ):
        self.config, self.scan = config, scan
        self.patch_embed = PatchEmbed(config, dtype=dtype, rngs=rngs)
        self.blocks = stack(
            lambda rngs: VisionBlock(config, norm=norm, mlp=mlp, dtype=dtype, attend=attend, rngs=rngs),
            config.depth,
            rngs,
        )
        self.merger = Merger(config, feature_dim, norm=norm, dtype=dtype, rngs=rngs)

    def __call__(self, vision: PackedVision) -> Float[Array, "Z M/4 D"]:
        angles = vision_rope_angles(vision.position_ZM2, self.config.head_dim)

        def apply(block: VisionBlock, x_ZME: Float[Array, "Z M E"], segment_ZM: Int[Array, "Z M"]):
            return block(x_ZME, angles, segment_ZM), None

        x_ZME = self.patch_embed.proj(vision.patch_ZMC)
        # Angles are the same in all blocks and are computed once; segment ids may differ and are scanned over.
        x_ZME, _ = self.scan(self.blocks, apply, x_ZME, self.segment_ids(vision))
        return self.merger(x_ZME)

    def segment_ids(self, vision: PackedVision) -> Int[Array, "L Z M"]:
        """Segment ids of each block's attention, 0 being padding. In Qwen2-VL every block attends to whole frames."""
        return jnp.broadcast_to(vision.segment_ZM, (self.config.depth, *vision.segment_ZM.shape))
