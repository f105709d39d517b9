"""Decoding's layers on a GPU by kernels alone: the linear maps of `few_rows` around the attention of `flash_decode`."""

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
class Layer:
    """The parameters of a layer.

    Attributes:
        qkv_DF, bias_F: the projections to queries, keys and values, side by side.
        norm_D: of the MLP.
        next_norm_D: of the attention behind this layer, or the last norm.
    """

    qkv_DF: Float[Array, "D F"]
    bias_F: Float[Array, " F"]
    output_ND: Float[Array, "N D"]
    norm_D: Float[Array, " D"]
    gate_DM: Float[Array, "D M"]
    up_DM: Float[Array, "D M"]
    down_MD: Float[Array, "M D"]
    next_norm_D: Float[Array, " D"]


def make_layers(params: Sequence[Params], norm: Params) -> list[Layer]:
    """To be made before the loop over tokens: matrices are put beside each other.

    Args:
        params: of the decoder's layers, one by one, without adapters.
        norm: of the last norm.
    """
    next_norms = [*(each["input_layernorm"] for each in params[1:]), norm]
    return [_layer(each, next_norm["scale"]) for each, next_norm in zip(params, next_norms, strict=True)]


def _layer(params: Params, next_norm_D: Array) -> Layer:
    attention, mlp = params["self_attn"], params["mlp"]
    projections = [attention[name] for name in ("q_proj", "k_proj", "v_proj")]
    return Layer(
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
    """Whether the kernels can take these sizes, and so many rows of a device that has all heads."""
    dims = config.hidden_size, config.intermediate_size, config.num_key_value_heads * config.head_dim
    return decode_linear_gpu.is_supported(num_rows, dims, head_dim=config.head_dim, dtype=jnp.dtype(dtype))


def decode_token(
    layers: list[Layer],
    x_BD: Float[Array, "B D"],
    normed_BD: Float[Array, "B D"],
    rotation: RopeAngles,
    *,
    prefix: PrefixCache,
    suffix: SuffixCache,
    step: Int[Array, ""] | Int[Array, " B"],
    config: Config,
) -> tuple[Float[Array, "B D"], SuffixCache]:
    """What `Decoder` does behind the embedding and the first norm."""
    add_and_norm = functools.partial(decode_linear_gpu.add_and_norm, epsilon=config.rms_norm_eps)
    key_BKHT, value_BKTH = [], []
    for index, layer in enumerate(layers):
        query_BNH, *new = decode_linear_gpu.qkv_heads_with_rope(
            decode_linear_gpu.matmul_split_k(normed_BD, layer.qkv_DF),
            layer.bias_F,
            rotation.cos[:, 0],
            rotation.sin[:, 0],
            num_kv_heads=config.num_key_value_heads,
        )
        mixed_BNH, (key, value) = decode_attention(
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
        x_BD, normed_BD = add_and_norm(
            x_BD, decode_linear_gpu.matmul_split_k(mixed_BNH.reshape(x_BD.shape), layer.output_ND), layer.norm_D
        )
        inner_BM = decode_linear_gpu.swiglu(normed_BD, layer.gate_DM, layer.up_DM)
        x_BD, normed_BD = add_and_norm(
            x_BD, decode_linear_gpu.matmul_split_k(inner_BM, layer.down_MD), layer.next_norm_D
        )
    return normed_BD, SuffixCache(key_BKHT, value_BKTH)
