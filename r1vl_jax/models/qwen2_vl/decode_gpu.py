"""A decode step's layers on GPU in Pallas kernels alone: `decode_linear_gpu` around `flash_decode_gpu`'s attention."""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from r1vl_jax.arrays import Params, bundle
from r1vl_jax.models import decode_linear_gpu
from r1vl_jax.models.attention.decode import decode_attention
from r1vl_jax.models.qwen2_vl.cache import PrefixCache, SuffixCache
from r1vl_jax.models.qwen2_vl.config import Config
from r1vl_jax.models.qwen2_vl.rope import RopeAngles


@bundle
class FusedLayer:
    """The parameters of a decoder layer, arranged for the fused kernels.

    Attributes:
        qkv_DF, bias_F: the query, key and value projections, concatenated along the output columns.
        output_ND: the attention's output projection.
        norm_D: scale of the RMSNorm before the MLP.
        next_norm_D: scale of the RMSNorm after the MLP: the next layer's first norm, or the final norm. It is here
            because the kernel that adds the MLP's output to the residual stream applies it.
    """

    qkv_DF: Float[Array, "D F"]
    bias_F: Float[Array, " F"]
    output_ND: Float[Array, "N D"]
    norm_D: Float[Array, " D"]
    gate_DM: Float[Array, "D M"]
    up_DM: Float[Array, "D M"]
    down_MD: Float[Array, "M D"]
    next_norm_D: Float[Array, " D"]


def fuse_layers(params: Sequence[Params], norm: Params) -> list[FusedLayer]:
    """Concatenates each layer's projections; to be called before the loop over tokens, so that it happens once.

    Args:
        params: of the decoder layers, without adapters.
        norm: of the final norm.
    """
    next_norms = [*(each["input_layernorm"] for each in params[1:]), norm]
    return [_fuse_layer(each, next_norm["scale"]) for each, next_norm in zip(params, next_norms, strict=True)]


def _fuse_layer(params: Params, next_norm_D: Array) -> FusedLayer:
    attention, mlp = params["self_attn"], params["mlp"]
    projections = [attention[name] for name in ("q_proj", "k_proj", "v_proj")]
    return FusedLayer(
        qkv_DF=jnp.concatenate([each["kernel"] for each in projections], axis=1),
        bias_F=jnp.concatenate([each["bias"] for each in projections]),
        output_ND=attention["o_proj"]["kernel"],
        norm_D=params["post_attention_layernorm"]["scale"],
        gate_DM=mlp["gate_proj"]["kernel"],
        up_DM=mlp["up_proj"]["kernel"],
        down_MD=mlp["down_proj"]["kernel"],
        next_norm_D=next_norm_D,
    )


def is_supported(config: Config, dtype: str, *, num_rows: int) -> bool:
    """Whether the kernels support these sizes and this many rows, on a device that holds all heads."""
    dims = config.hidden_size, config.intermediate_size, config.num_key_value_heads * config.head_dim
    return decode_linear_gpu.is_supported(num_rows, dims, head_dim=config.head_dim, dtype=jnp.dtype(dtype))


def decode_token(
    layers: list[FusedLayer],
    x_BD: Float[Array, "B D"],
    normed_BD: Float[Array, "B D"],
    angles: RopeAngles,
    *,
    prefix: PrefixCache,
    suffix: SuffixCache,
    step: Int[Array, ""] | Int[Array, " B"],
    config: Config,
) -> tuple[Float[Array, "B D"], SuffixCache]:
    """What `Decoder` does after the embedding and the first layer's first norm.

    Args:
        x_BD: embeddings, the start of the residual stream.
        normed_BD: x after the first layer's `input_layernorm`.

    Returns:
        Hidden states after the final norm, and the suffix cache with the token in it.
    """
    fused_add_rms_norm = functools.partial(decode_linear_gpu.fused_add_rms_norm, epsilon=config.rms_norm_eps)
    key_BKHT, value_BKTH = [], []
    # Invariant: normed_BD is x_BD after the norm of the next sublayer. The kernel of each residual addition applies the
    # norm that comes after it, so that no kernel does nothing but a norm.
    for index, layer in enumerate(layers):
        # Attention: QKV projection, RoPE, attention to the caches, output projection, residual.
        query_BNH, *new = decode_linear_gpu.qkv_heads_with_rope(
            decode_linear_gpu.matmul_split_k(normed_BD, layer.qkv_DF),
            layer.bias_F,
            angles.cos[:, 0],
            angles.sin[:, 0],
            num_kv_heads=config.num_key_value_heads,
        )
        attended_BNH, (key, value) = decode_attention(
            query_BNH,
            (new[0], new[1]),
            prefix=(prefix.key_PKHS[index], prefix.value_PKSH[index]),
            prefix_mask_PS=prefix.mask_PS,
            suffix=(suffix.key_BKHT[index], suffix.value_BKTH[index]),
            step=step,
            platform="gpu",
        )
        key_BKHT.append(key)
        value_BKTH.append(value)
        attention_output = decode_linear_gpu.matmul_split_k(attended_BNH.reshape(x_BD.shape), layer.output_ND)
        x_BD, normed_BD = fused_add_rms_norm(x_BD, attention_output, layer.norm_D)
        # MLP, and the residual with the norm of the next layer.
        hidden_BM = decode_linear_gpu.swiglu(normed_BD, layer.gate_DM, layer.up_DM)
        mlp_output = decode_linear_gpu.matmul_split_k(hidden_BM, layer.down_MD)
        x_BD, normed_BD = fused_add_rms_norm(x_BD, mlp_output, layer.next_norm_D)
    return normed_BD, SuffixCache(key_BKHT, value_BKTH)
