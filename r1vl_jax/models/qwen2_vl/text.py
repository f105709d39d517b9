"""The text decoder: pre-norm transformer layers with grouped-query attention, M-RoPE and a SwiGLU MLP.

Modules have the names of Hugging Face's checkpoints.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from r1vl_jax.models.attention.attention import AttentionFn
from r1vl_jax.models.attention.shared_prefix import SharedPrefix
from r1vl_jax.models.qwen2_vl.config import Config
from r1vl_jax.models.qwen2_vl.layers import RESIDUAL_GAIN, RMSNorm, linear, stack
from r1vl_jax.models.qwen2_vl.rope import RopeAngles, apply_rope

KeyValue = tuple[Float[Array, "B T K H"], Float[Array, "B T K H"]]
CachedKeyValue = tuple[Float[Array, "B K H T"], Float[Array, "B K T H"]]  # one layer's, in the layouts of `cache`


class SelfAttention(nnx.Module):
    """The query, key, value and output projections; attention itself is a function that the layer is given."""

    def __init__(self, config: Config, *, dtype: DTypeLike, rngs: nnx.Rngs):
        dim, kv_dim = config.hidden_size, config.num_key_value_heads * config.head_dim
        self.head_dim = config.head_dim
        # As in Qwen2: biases on the query, key and value projections only.
        self.q_proj = linear(dim, dim, use_bias=True, dtype=dtype, rngs=rngs)
        self.k_proj = linear(dim, kv_dim, use_bias=True, dtype=dtype, rngs=rngs)
        self.v_proj = linear(dim, kv_dim, use_bias=True, dtype=dtype, rngs=rngs)
        self.o_proj = linear(dim, dim, use_bias=False, dtype=dtype, rngs=rngs, gain=RESIDUAL_GAIN)

    def project(self, x_BTD: Float[Array, "B T D"], angles: RopeAngles) -> tuple[Float[Array, "B T N H"], KeyValue]:
        """Queries, and (keys, values), split into heads; RoPE is applied to queries and keys."""
        query, key, value = (
            proj(x_BTD).reshape(*x_BTD.shape[:2], -1, self.head_dim) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        return apply_rope(query, angles), (apply_rope(key, angles), value)


class MLP(nnx.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)).

    Source: Shazeer, GLU Variants Improve Transformer, 2020, https://arxiv.org/abs/2002.05202.
    """

    def __init__(self, dim: int, hidden_dim: int, *, use_bias: bool, dtype: DTypeLike, rngs: nnx.Rngs):
        self.gate_proj = linear(dim, hidden_dim, use_bias=use_bias, dtype=dtype, rngs=rngs)
        self.up_proj = linear(dim, hidden_dim, use_bias=use_bias, dtype=dtype, rngs=rngs)
        self.down_proj = linear(hidden_dim, dim, use_bias=use_bias, dtype=dtype, rngs=rngs, gain=RESIDUAL_GAIN)

    def __call__(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.down_proj(jax.nn.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))


class DecoderLayer(nnx.Module):
    """A pre-norm transformer layer: h = x + attention(norm(x)), then h + mlp(norm(h))."""

    def __init__(self, config: Config, *, dtype: DTypeLike, attend: AttentionFn, rngs: nnx.Rngs):
        self.attend = attend
        self.input_layernorm = _norm(config, dtype, rngs)
        self.self_attn = SelfAttention(config, dtype=dtype, rngs=rngs)
        self.post_attention_layernorm = _norm(config, dtype, rngs)
        self.mlp = MLP(config.hidden_size, config.intermediate_size, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        angles: RopeAngles,
        mask_BT: Bool[Array, "B T"],
        shared_prefix: SharedPrefix | None = None,
    ) -> tuple[Float[Array, "B T D"], KeyValue]:
        """Forward pass over whole sequences; also returns the keys and values, for a cache."""
        query_BTNH, (key_BTKH, value_BTKH) = self.self_attn.project(self.input_layernorm(x_BTD), angles)
        segment_BT = mask_BT.astype(jnp.int32)  # one segment a row; 0 is padding
        attended_BTNH = self.attend(
            query_BTNH, key_BTKH, value_BTKH, segment_BT=segment_BT, is_causal=True, shared_prefix=shared_prefix
        )
        return self.add_residuals(x_BTD, attended_BTNH), (key_BTKH, value_BTKH)

    def decode(
        self,
        x_B1D: Float[Array, "B 1 D"],
        angles: RopeAngles,
        *,
        prefix: CachedKeyValue,
        prefix_mask_PS: Bool[Array, "P S"],
        suffix: CachedKeyValue,
        step: Int[Array, ""] | Int[Array, " B"],
        attend: AttentionFn,
    ) -> tuple[Float[Array, "B 1 D"], CachedKeyValue]:
        """Forward pass of one new token per row; its key and value are written to column `step` of the suffix cache.

        Args:
            attend: `attention.decode.decode_attention` with platform and sharding bound.

        Returns:
            The residual stream after the layer, and the layer's updated suffix cache.
        """
        query_B1NH, new = self.self_attn.project(self.input_layernorm(x_B1D), angles)
        attended_BNH, suffix = attend(
            query_B1NH[:, 0],
            (new[0][:, 0], new[1][:, 0]),
            prefix=prefix,
            prefix_mask_PS=prefix_mask_PS,
            suffix=suffix,
            step=step,
        )
        return self.add_residuals(x_B1D, attended_BNH[:, None]), suffix

    def add_residuals(
        self, x_BTD: Float[Array, "B T D"], attended_BTNH: Float[Array, "B T N H"]
    ) -> Float[Array, "B T D"]:
        """Both residual additions of the layer: the projected attention output, then the MLP."""
        x_BTD = x_BTD + self.self_attn.o_proj(attended_BTNH.reshape(x_BTD.shape))
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


class Text(nnx.Module):
    """Token embedding, decoder layers (stacked on a leading axis) and final norm."""

    def __init__(self, config: Config, *, dtype: DTypeLike, attend: AttentionFn, rngs: nnx.Rngs):
        init = nnx.initializers.normal(config.initializer_range)
        self.embed_tokens = nnx.Embed(
            config.vocab_size, config.hidden_size, dtype=dtype, embedding_init=init, rngs=rngs
        )
        self.layers = stack(
            lambda rngs: DecoderLayer(config, dtype=dtype, attend=attend, rngs=rngs), config.num_hidden_layers, rngs
        )
        self.norm = _norm(config, dtype, rngs)

    def embed(self, token: Int[Array, "*tokens"]) -> Float[Array, "*tokens D"]:
        # Gather, then cast: nnx.Embed would cast the whole table first.
        return self.embed_tokens.embedding[token].astype(self.embed_tokens.dtype)


def _norm(config: Config, dtype: DTypeLike, rngs: nnx.Rngs) -> RMSNorm:
    return RMSNorm(config.hidden_size, epsilon=config.rms_norm_eps, dtype=dtype, rngs=rngs)
