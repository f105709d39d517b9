"""The one attention function of the project, and its counterpart for decoding.

Platforms differ behind it; callers see segments, causality and grouped heads only. Scores are float32 everywhere.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from r1vl_jax.models.attention import cudnn
from r1vl_jax.models.attention.shared_prefix import SharedPrefix
from r1vl_jax.models.attention.splash_tpu import splash_attention

# A score that no visible key can reach. It is finite, so that rows without any visible key stay finite too.
MASKED_SCORE = -1e30


# `attention` for one platform and mesh.
Attend = Callable[..., Float[Array, "B T N H"]]


def attention(
    query_BTNH: Float[Array, "B T N H"],
    key_BTKH: Float[Array, "B T K H"],
    value_BTKH: Float[Array, "B T K H"],
    *,
    segment_BT: Int[Array, "B T"],
    is_causal: bool,
    platform: str,
    branches: SharedPrefix | None = None,
    mesh: Mesh | None = None,
    chunk_size: int = 512,
) -> Float[Array, "B T N H"]:
    """Softmax attention among tokens of the same row and segment, scaled by 1 / sqrt(H).

    Args:
        segment_BT: segment numbers; 0 is padding, which is not seen and gets zeros. It must be finite. Causal attention
            has one segment: a GPU's kernels tell no others apart.
        is_causal: whether a query sees only keys of its own column and before.
        branches: columns at the end that do not see each other, see `Branches`; causal attention only.
        platform: "cpu", "gpu" or "tpu", where the program will run; never asked of the machine that compiles.
        mesh: where rows and heads are divided: the TPU's kernel has to know (see `splash`), the compiler does.
        chunk_size: queries whose scores exist at one time, when there are more than that; the TPU's kernel has its own.
    """
    check_platform(platform)
    if platform == "tpu":
        return splash_attention(
            query_BTNH, key_BTKH, value_BTKH, segment_BT, is_causal=is_causal, branches=branches, mesh=mesh
        )
    if platform == "gpu" and cudnn.is_supported(query_BTNH, is_causal=is_causal):
        return cudnn.cudnn_attention(
            query_BTNH, key_BTKH, value_BTKH, segment_BT, is_causal=is_causal, branches=branches
        )
    attend = partial(_attention, is_causal=is_causal, chunk_size=chunk_size)
    if branches is None:
        return attend(query_BTNH, key_BTKH, value_BTKH, segment_BT)
    return _shared_prefix_attention(attend, branches, query_BTNH, key_BTKH, value_BTKH, segment_BT)


def _shared_prefix_attention(
    attend: Callable[..., Array],
    branches: SharedPrefix,
    query_BTNH: Array,
    key_BTKH: Array,
    value_BTKH: Array,
    segment_BT,
) -> Float[Array, "B T N H"]:
    """The stem by itself; then every branch as a row of its own, behind the stem's keys and values."""
    stem = branches.prefix_length(query_BTNH.shape[1])
    of_stem = attend(query_BTNH[:, :stem], key_BTKH[:, :stem], value_BTKH[:, :stem], segment_BT[:, :stem])
    of_branches = attend(
        branches.split_completions(query_BTNH), *map(branches.repeat_prefix, (key_BTKH, value_BTKH, segment_BT))
    )
    return jnp.concatenate([of_stem, of_branches.reshape(query_BTNH[:, stem:].shape)], axis=1)


def _attention(
    query_BTNH: Float[Array, "B T N H"],
    key_BSKH: Float[Array, "B S K H"],
    value_BSKH: Float[Array, "B S K H"],
    segment_BS: Int[Array, "B S"],
    *,
    is_causal: bool,
    chunk_size: int,
) -> Float[Array, "B T N H"]:
    """Queries are those of the last T of S columns."""
    length, num_kv_heads = query_BTNH.shape[1], key_BSKH.shape[2]
    first = key_BSKH.shape[1] - length
    attend = partial(
        _dot_product_attention, key_BSKH=key_BSKH, value_BSKH=value_BSKH, segment_BS=segment_BS, is_causal=is_causal
    )
    query_BTKQH = query_BTNH.reshape(*query_BTNH.shape[:2], num_kv_heads, -1, query_BTNH.shape[-1])
    segment_BT = segment_BS[:, first:]
    if length <= chunk_size:
        output_BTKQH = attend(query_BTKQH, segment_BT, first + jnp.arange(length))
    else:
        output_BTKQH = _in_chunks(attend, query_BTKQH, segment_BT, first, chunk_size)
    return output_BTKQH.reshape(query_BTNH.shape)


def _in_chunks(
    attend, query_BTKQH: Float[Array, "B T K Q H"], segment_BT: Int[Array, "B T"], first: int, chunk_size: int
):
    """Attends for one chunk of queries after another; the backward pass computes each chunk's scores again."""
    length = query_BTKQH.shape[1]
    num_chunks = -(-length // chunk_size)
    missing = num_chunks * chunk_size - length

    def chunks(array: Array) -> Array:
        padded = jnp.pad(array, [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2))
        return jnp.moveaxis(padded.reshape(padded.shape[0], num_chunks, chunk_size, *padded.shape[2:]), 1, 0)

    column = first + jnp.arange(num_chunks * chunk_size).reshape(num_chunks, chunk_size)
    inputs = chunks(query_BTKQH), chunks(segment_BT), column
    output = jax.lax.map(jax.checkpoint(lambda chunk: attend(*chunk)), inputs)
    output = jnp.moveaxis(output, 0, 1)
    return output.reshape(output.shape[0], num_chunks * chunk_size, *output.shape[3:])[:, :length]


def _dot_product_attention(
    query_BTKQH: Float[Array, "B T K Q H"],
    segment_BT: Int[Array, "B T"],
    column_T: Int[Array, " T"],
    *,
    key_BSKH: Float[Array, "B S K H"],
    value_BSKH: Float[Array, "B S K H"],
    segment_BS: Int[Array, "B S"],
    is_causal: bool,
) -> Float[Array, "B T K Q H"]:
    num_rows, length, num_kv_heads, group, head_dim = query_BTKQH.shape
    is_visible_BTS = (segment_BT[:, :, None] == segment_BS[:, None]) & (segment_BT[:, :, None] != 0)
    if is_causal:
        is_visible_BTS &= column_T[None, :, None] >= jnp.arange(segment_BS.shape[1])[None, None]
    # Added, not selected: broadcast over heads, a mask in a loop over layers would be kept that large on a CPU.
    bias_BTS = jnp.where(is_visible_BTS, 0.0, MASKED_SCORE)

    # Of a head, all queries are rows of one product, as they lie: so nobody turns the scores around.
    query_BKQTH = jnp.transpose(query_BTKQH, (0, 2, 3, 1, 4))
    query_BKRH = query_BKQTH.reshape(num_rows, num_kv_heads, group * length, head_dim)
    key_BKHS, value_BKSH = jnp.transpose(key_BSKH, (0, 2, 3, 1)), jnp.transpose(value_BSKH, (0, 2, 1, 3))
    score_BKRS = jnp.einsum("bkrh,bkhs->bkrs", query_BKRH, key_BKHS, preferred_element_type=jnp.float32)
    score_BKQTS = head_dim**-0.5 * score_BKRS.reshape(*query_BKQTH.shape[:-1], -1) + bias_BTS[:, None, None]
    # Divided before the product: rounded to bfloat16 first, gradients of the two would no longer cancel.
    weight_BKRS = jax.nn.softmax(score_BKQTS).reshape(score_BKRS.shape).astype(value_BSKH.dtype)
    output_BKQTH = jnp.einsum("bkrs,bksh->bkrh", weight_BKRS, value_BKSH).reshape(query_BKQTH.shape)
    # Padding sees nothing, so that its weights are all alike: it gets zeros.
    output_BKQTH = jnp.where((segment_BT != 0)[:, None, None, :, None], output_BKQTH, 0.0)
    return jnp.transpose(output_BKQTH, (0, 3, 1, 2, 4))


def check_platform(platform: str) -> None:
    if platform not in ("cpu", "gpu", "tpu"):
        raise ValueError(f"platform: expected 'cpu', 'gpu' or 'tpu', got {platform!r}")
