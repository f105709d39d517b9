"""The vision tower: a transformer over packed patches, and the merger that makes four neighbours one feature.

What follows is Qwen2-VL's; norms, MLP and who sees whom are for later towers to replace (`models.qwen2_5_vl.vision`).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int

from r1vl_jax.arrays import PackedVision
from r1vl_jax.models.attention.attention import Attend
from r1vl_jax.models.qwen2_vl.config import TowerConfig, VisionConfig
from r1vl_jax.models.qwen2_vl.layers import RESIDUAL_GAIN, LayerNorm, Scan, linear, stack
from r1vl_jax.models.qwen2_vl.rope import RopeAngles, apply_rope, vision_rope_angles

# Makes a part of a block; called with sizes, dtype and rngs.
Make = Callable[..., Any]


def layer_norm(dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> LayerNorm:
    return LayerNorm(dim, epsilon=1e-6, use_fast_variance=False, dtype=dtype, rngs=rngs)


class PatchEmbed(nnx.Module):
    """Patches do not overlap, so the weights' convolution is a product with each flattened patch."""

    def __init__(self, config: TowerConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.proj = linear(config.patch_dim, config.embed_dim, use_bias=False, dtype=dtype, rngs=rngs)


class VisionAttention(nnx.Module):
    """Every patch attends to the patches of its own segment: a frame, or a part of one."""

    def __init__(self, config: TowerConfig, *, dtype: DTypeLike, attend: Attend, rngs: nnx.Rngs):
        self.num_heads, self.attend = config.num_heads, attend
        self.qkv = linear(config.embed_dim, 3 * config.embed_dim, use_bias=True, dtype=dtype, rngs=rngs)
        self.proj = linear(
            config.embed_dim, config.embed_dim, use_bias=True, dtype=dtype, rngs=rngs, gain=RESIDUAL_GAIN
        )

    def __call__(
        self, x_ZME: Float[Array, "Z M E"], rotation: RopeAngles, segment_ZM: Int[Array, "Z M"]
    ) -> Float[Array, "Z M E"]:
        query, key, value = (
            part.reshape(*x_ZME.shape[:2], self.num_heads, -1) for part in jnp.split(self.qkv(x_ZME), 3, axis=-1)
        )
        mixed_ZMNH = self.attend(
            apply_rope(query, rotation), apply_rope(key, rotation), value, segment_BT=segment_ZM, is_causal=False
        )
        return self.proj(mixed_ZMNH.reshape(x_ZME.shape))


class VisionMLP(nnx.Module):
    """fc2(quick_gelu(fc1(x))), with quick_gelu(x) = x sigmoid(1.702 x)."""

    def __init__(self, config: VisionConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        hidden_dim = config.mlp_ratio * config.embed_dim
        self.fc1 = linear(config.embed_dim, hidden_dim, use_bias=True, dtype=dtype, rngs=rngs)
        self.fc2 = linear(hidden_dim, config.embed_dim, use_bias=True, dtype=dtype, rngs=rngs, gain=RESIDUAL_GAIN)

    def __call__(self, x_ZME: Float[Array, "Z M E"]) -> Float[Array, "Z M E"]:
        hidden_ZMF = self.fc1(x_ZME)
        return self.fc2(hidden_ZMF * jax.nn.sigmoid(1.702 * hidden_ZMF))


class VisionBlock(nnx.Module):
    """Attention and MLP, each behind a norm and added to the residual stream."""

    def __init__(self, config: TowerConfig, *, norm: Make, mlp: Make, dtype: DTypeLike, attend: Attend, rngs: nnx.Rngs):
        self.norm1 = norm(config.embed_dim, dtype=dtype, rngs=rngs)
        self.attn = VisionAttention(config, dtype=dtype, attend=attend, rngs=rngs)
        self.norm2 = norm(config.embed_dim, dtype=dtype, rngs=rngs)
        self.mlp = mlp(config, dtype=dtype, rngs=rngs)

    def __call__(
        self, x_ZME: Float[Array, "Z M E"], rotation: RopeAngles, segment_ZM: Int[Array, "Z M"]
    ) -> Float[Array, "Z M E"]:
        x_ZME = x_ZME + self.attn(self.norm1(x_ZME), rotation, segment_ZM)
        return x_ZME + self.mlp(self.norm2(x_ZME))


class Merger(nnx.Module):
    """Joins the four patches of a 2x2 square, which stand side by side, into one feature of the text's width."""

    def __init__(self, config: TowerConfig, feature_dim: int, *, norm: Make, dtype: DTypeLike, rngs: nnx.Rngs):
        self.merged_dim = config.merge_length * config.embed_dim
        self.ln_q = norm(config.embed_dim, dtype=dtype, rngs=rngs)
        self.mlp_0 = linear(self.merged_dim, self.merged_dim, use_bias=True, dtype=dtype, rngs=rngs)
        self.mlp_2 = linear(self.merged_dim, feature_dim, use_bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, x_ZME: Float[Array, "Z M E"]) -> Float[Array, "Z M/4 D"]:
        square = self.ln_q(x_ZME).reshape(x_ZME.shape[0], -1, self.merged_dim)
        return self.mlp_2(jax.nn.gelu(self.mlp_0(square), approximate=False))


class Vision(nnx.Module):
    """The whole tower: patches in, features in the text's width out."""

    def __init__(
        self,
        config: TowerConfig,
        feature_dim: int,
        *,
        norm: Make = layer_norm,
        mlp: Make = VisionMLP,
        dtype: DTypeLike,
        scan: Scan,
        attend: Attend,
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
        rotation = vision_rope_angles(vision.position_ZM2, self.config.head_dim)

        def apply(block: VisionBlock, x_ZME: Float[Array, "Z M E"], segment_ZM: Int[Array, "Z M"]):
            return block(x_ZME, rotation, segment_ZM), None

        x_ZME = self.patch_embed.proj(vision.patch_ZMC)
        x_ZME, _ = self.scan(self.blocks, apply, x_ZME, self.segments(vision))
        return self.merger(x_ZME)

    def segments(self, vision: PackedVision) -> Int[Array, "L Z M"]:
        """Who sees whom, block by block: patches of equal number, 0 being padding. Here always those of a frame."""
        return jnp.broadcast_to(vision.segment_ZM, (self.config.depth, *vision.segment_ZM.shape))
