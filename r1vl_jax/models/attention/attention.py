"""Attention over whole sequences: one function, with a backend for each platform.

    cpu   einsums, one chunk of queries after another              (this module)
    gpu   cuDNN's fused attention where it fits, else as on a CPU   (`cudnn`)
    tpu   the Pallas splash attention kernel                        (`splash_tpu`)

All backends support packed segments, causality, grouped-query attention and completions that share a prefix. Scores and
softmax are float32. Attention of single tokens to a cache is in `decode`.
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

# Stands for minus infinity. It is finite so that a row in which every key is masked gives a uniform softmax, not NaN.
MASKED_SCORE = -1e30


# `attention` with platform and mesh bound.
AttentionFn = Callable[..., Float[Array, "B T N H"]]


def attention(
    query_BTNH: Float[Array, "B T N H"],
    key_BTKH: Float[Array, "B T K H"],
    value_BTKH: Float[Array, "B T K H"],
    *,
    segment_BT: Int[Array, "B T"],
    is_causal: bool,
    platform: str,
    shared_prefix: SharedPrefix | None = None,
    mesh: Mesh | None = None,
    chunk_size: int = 512,
) -> Float[Array, "B T N H"]:
    """softmax(Q K^T / sqrt(H)) V, among the tokens of the same row and segment.

    Args:
        segment_BT: segment ids; tokens attend within their segment only. 0 is padding: it is masked out and gets zeros,
            but its queries, keys and values must be finite. Causal attention supports one segment a row, because the
            GPU's causal kernel has no segment ids.
        is_causal: whether a query attends only to keys of its own column and of earlier ones.
        platform: "cpu", "gpu" or "tpu": where the program will run, which may not be where it is compiled.
        shared_prefix: the layout, if a row holds several completions after one prefix; causal attention only.
        mesh: the mesh over which rows and heads are sharded. Only the TPU's kernel needs it, see `splash_tpu`; XLA
            partitions everything else by itself.
        chunk_size: most queries whose scores are in memory at one time; splash attention has block sizes of its own.

    Raises:
        ValueError: there is no such platform.
    """
    check_platform(platform)
    if platform == "tpu":
        return splash_attention(
            query_BTNH, key_BTKH, value_BTKH, segment_BT, is_causal=is_causal, shared_prefix=shared_prefix, mesh=mesh
        )
    if platform == "gpu" and cudnn.is_supported(query_BTNH, is_causal=is_causal):
        return cudnn.cudnn_attention(
            query_BTNH, key_BTKH, value_BTKH, segment_BT, is_causal=is_causal, shared_prefix=shared_prefix
        )
    # Without a fused kernel: on CPU, and on GPU for float32 or wide heads.
    attend = partial(_xla_attention, is_causal=is_causal, chunk_size=chunk_size)
    if shared_prefix is None:
        return attend(query_BTNH, key_BTKH, value_BTKH, segment_BT)
    return _shared_prefix_attention(attend, shared_prefix, query_BTNH, key_BTKH, value_BTKH, segment_BT)


def _shared_prefix_attention(
    attend: Callable[..., Array],
    shared_prefix: SharedPrefix,
    query_BTNH: Array,
    key_BTKH: Array,
    value_BTKH: Array,
    segment_BT,
) -> Float[Array, "B T N H"]:
    """The prefix's queries once; then each completion's queries as a row, against prefix keys and its own."""
    prefix_length = shared_prefix.prefix_length(query_BTNH.shape[1])
    prefix_output = attend(
        query_BTNH[:, :prefix_length],
        key_BTKH[:, :prefix_length],
        value_BTKH[:, :prefix_length],
        segment_BT[:, :prefix_length],
    )
    # Keys and values of the prefix are repeated for each completion, its queries are not.
    completion_output = attend(
        shared_prefix.split_completions(query_BTNH),
        *map(shared_prefix.repeat_prefix, (key_BTKH, value_BTKH, segment_BT)),
    )
    return jnp.concatenate([prefix_output, completion_output.reshape(query_BTNH[:, prefix_length:].shape)], axis=1)


def _xla_attention(
    query_BTNH: Float[Array, "B T N H"],
    key_BSKH: Float[Array, "B S K H"],
    value_BSKH: Float[Array, "B S K H"],
    segment_BS: Int[Array, "B S"],
    *,
    is_causal: bool,
    chunk_size: int,
) -> Float[Array, "B T N H"]:
    """Attention in plain XLA operations; the T queries are those of the last T of S columns."""
    length, num_kv_heads = query_BTNH.shape[1], key_BSKH.shape[2]
    first_column = key_BSKH.shape[1] - length
    attend = partial(
        _dot_product_attention, key_BSKH=key_BSKH, value_BSKH=value_BSKH, segment_BS=segment_BS, is_causal=is_causal
    )
    # Grouped-query attention: query head n = k * Q + q reads key/value head k.
    query_BTKQH = query_BTNH.reshape(*query_BTNH.shape[:2], num_kv_heads, -1, query_BTNH.shape[-1])
    segment_BT = segment_BS[:, first_column:]
    if length <= chunk_size:
        output_BTKQH = attend(query_BTKQH, segment_BT, first_column + jnp.arange(length))
    else:
        output_BTKQH = _chunked_attention(attend, query_BTKQH, segment_BT, first_column, chunk_size)
    return output_BTKQH.reshape(query_BTNH.shape)


def _chunked_attention(
    attend, query_BTKQH: Float[Array, "B T K Q H"], segment_BT: Int[Array, "B T"], first_column: int, chunk_size: int
):
    """Attends for one chunk of queries after another, so that at most chunk_size x S scores a head are in memory.

    A chunk sees all of its keys at once, so its softmax needs no running max and sum. The backward pass recomputes the
    scores of each chunk.
    """
    length = query_BTKQH.shape[1]
    num_chunks = -(-length // chunk_size)
    padding = num_chunks * chunk_size - length

    # Padded queries get segment 0: their output is zero and is cut off at the end.
    def to_chunks(array: Array) -> Array:
        padded = jnp.pad(array, [(0, 0), (0, padding)] + [(0, 0)] * (array.ndim - 2))
        return jnp.moveaxis(padded.reshape(padded.shape[0], num_chunks, chunk_size, *padded.shape[2:]), 1, 0)

    column = first_column + jnp.arange(num_chunks * chunk_size).reshape(num_chunks, chunk_size)
    inputs = to_chunks(query_BTKQH), to_chunks(segment_BT), column
    # `checkpoint` inside the loop: without it, the loop would save the scores of all chunks for the backward pass.
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
    # The mask is an additive bias, not a `where` on the scores: for a `where` in a scan over layers, XLA for CPU would
    # keep the boolean mask broadcast over heads, as large as the scores.
    bias_BTS = jnp.where(is_visible_BTS, 0.0, MASKED_SCORE)

    # All queries of a key/value head are the rows R = Q*T of one matmul. With the axes in this order the scores leave
    # it in the layout in which the softmax and the second matmul read them; no transposed copy of them is made.
    query_BKQTH = jnp.transpose(query_BTKQH, (0, 2, 3, 1, 4))
    query_BKRH = query_BKQTH.reshape(num_rows, num_kv_heads, group * length, head_dim)
    key_BKHS, value_BKSH = jnp.transpose(key_BSKH, (0, 2, 3, 1)), jnp.transpose(value_BSKH, (0, 2, 1, 3))
    # Scores and softmax are float32 whatever the dtype of queries and keys.
    score_BKRS = jnp.einsum("bkrh,bkhs->bkrs", query_BKRH, key_BKHS, preferred_element_type=jnp.float32)
    score_BKQTS = head_dim**-0.5 * score_BKRS.reshape(*query_BKQTH.shape[:-1], -1) + bias_BTS[:, None, None]
    # Weights are normalised before they are rounded to bfloat16 for the product with V. With unnormalised weights and
    # a division of the output by their sum, the gradients through weights and sum would no longer cancel.
    weight_BKRS = jax.nn.softmax(score_BKQTS).reshape(score_BKRS.shape).astype(value_BSKH.dtype)
    output_BKQTH = jnp.einsum("bkrs,bksh->bkrh", weight_BKRS, value_BKSH).reshape(query_BKQTH.shape)
    # For a padded query every key is masked, so its softmax is uniform; its output is set to zero.
    output_BKQTH = jnp.where((segment_BT != 0)[:, None, None, :, None], output_BKQTH, 0.0)
    return jnp.transpose(output_BKQTH, (0, 3, 1, 2, 4))


def check_platform(platform: str) -> None:
    if platform not in ("cpu", "gpu", "tpu"):
        raise ValueError(f"platform: expected 'cpu', 'gpu' or 'tpu', got {platform!r}")
