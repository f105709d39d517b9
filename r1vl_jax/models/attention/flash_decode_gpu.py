"""Decoding's attention on GPU by kernels that never write scores.

A program of the first kernel walks through some of a head's keys: those of a prompt for many of its samples together,
those of a row's own tokens for the row. A second kernel merges what they found, by its log-sum-exp.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

try:
    from jax.experimental.pallas import triton
except ImportError:  # JAX 0.11 announces that it will go; plain attention is there
    triton: Any = None

_BLOCK_KEYS = 64  # keys that are read at one time
_NUM_STAGES = 3  # blocks on their way
_PROGRAMS = 264  # about as many, if there are blocks for them: two for each processor of an H100 or H200
_LEAST_QUERIES, _MOST_QUERIES = 16, 64  # of a program: the rows of the smallest product on tensor cores; no fewer fit
_MASKED_SCORE = -1e30

KeyValue = tuple[Array, Array]  # of a token [B, K, H], or of a cache [B, K, H, T] and [B, K, T, H]

# Of I parts of the keys: what R queries of a head would get if there were no other [B, K, I, R, H], and the logarithm
# of the sum of the scores' exponentials [B, K, I, R].
_PartialSoftmax = Sequence[Array]


def is_supported(query_BNH: Array, prefix_mask_PS: Array, suffix_key_BKHT: Array) -> bool:
    """Whether the kernels can take these: 16 bits, as wide as tensor cores multiply, whole blocks of keys."""
    _, num_heads, width = query_BNH.shape
    lengths = prefix_mask_PS.shape[-1], suffix_key_BKHT.shape[-1]
    is_suited = (
        query_BNH.dtype in (jnp.bfloat16, jnp.float16)
        and width in (16, 32, 64, 128)
        and num_heads // suffix_key_BKHT.shape[1] <= _MOST_QUERIES
        and all(length % _BLOCK_KEYS == 0 for length in lengths)
    )
    if is_suited and triton is None:
        warnings.warn("this JAX has no Pallas for Triton: decoding on GPU takes plain attention", stacklevel=2)
    return is_suited and triton is not None


def flash_decode(
    query_BNH: Float[Array, "B N H"],
    new: KeyValue,
    *,
    prefix: KeyValue,
    prefix_mask_PS: Bool[Array, "P S"],
    suffix: KeyValue,
    step: Int[Array, ""] | Int[Array, " B"],
    is_divided: bool = False,
    interpret: bool = False,
) -> tuple[Float[Array, "B N H"], KeyValue]:
    """`attention.decode_attention`, for what is suited.

    Args:
        interpret: computes what the kernels would on whatever device there is, slowly; for tests.
    """
    attend = partial(_attend, interpret=interpret)
    if is_divided:  # the compiler does not divide kernels
        whole, heads = PartitionSpec(), PartitionSpec(None, "tensor")
        attend = jax.shard_map(
            attend,
            in_specs=(heads, heads, heads, whole, heads, whole),
            out_specs=heads,
            axis_names={"tensor"},
            check_vma=False,  # kernels do not tell over which axes their results vary
        )
    return attend(query_BNH, new, prefix, prefix_mask_PS, suffix, jnp.broadcast_to(step, query_BNH.shape[:1]))


def _attend(
    query_BNH: Array,
    new: KeyValue,
    prefix: KeyValue,
    prefix_mask_PS: Array,
    suffix: KeyValue,
    step_B: Array,
    *,
    interpret: bool,
) -> tuple[Array, KeyValue]:
    num_rows, num_heads, width = query_BNH.shape
    num_prompts, num_kv_heads, _, _ = prefix[0].shape
    num_samples, num_queries = num_rows // num_prompts, num_heads // num_kv_heads
    query_BKQH = query_BNH.reshape(num_rows, num_kv_heads, num_queries, width)
    together = next(
        size for size in range(num_samples, 0, -1) if not num_samples % size and size * num_queries <= _MOST_QUERIES
    )
    query_CGKQH = query_BKQH.reshape(-1, together, *query_BKQH.shape[1:])
    of_prompt = _split_k_attention(
        _prefix_kernel, query_CGKQH, prefix, prefix_mask_PS, is_written=False, interpret=interpret
    )
    *own, key, value = _split_k_attention(
        _suffix_kernel, query_BKQH[:, None], suffix, step_B, *new, is_written=True, interpret=interpret
    )
    merged_BKQH = _merge(of_prompt, own, query_BNH.dtype, interpret=interpret)
    return merged_BKQH.reshape(query_BNH.shape), (key, value)


def _split_k_attention(
    kernel: Callable[..., None],
    query_CGKQH: Float[Array, "C G K Q H"],
    cache: KeyValue,
    *of_cache: Array,
    is_written: bool,
    interpret: bool,
) -> list[Array]:
    """For C groups of rows, equally many of which read each row of a cache; a program takes a group together.

    Args:
        kernel: what a program does with its queries, keys and values, its part of `of_cache`, and its results.
        of_cache: arrays with a row for every row of the cache, [B], [B, S] or [B, K, H]; a program gets its row's
            number, its row's columns, or its row's and head's vector.
        is_written: whether the kernel is given the caches again, among its results, to change them in place.

    Returns:
        What was found, and the caches if they are written.
    """
    num_groups, num_samples, num_kv_heads, num_queries, width = query_CGKQH.shape
    num_caches, _, _, length = cache[0].shape
    num_readers = num_groups // num_caches
    num_parts = min(2 ** int(math.log2(max(_PROGRAMS / (num_groups * num_kv_heads), 1))), length // _BLOCK_KEYS)
    parts = (num_groups, num_kv_heads, num_parts, num_samples * num_queries)
    query = pl.BlockSpec((None, num_samples, None, num_queries, width), lambda group, head, _: (group, 0, head, 0, 0))
    caches = [
        pl.BlockSpec((None, None, *each.shape[2:]), lambda group, head, _: (group // num_readers, head, 0, 0))
        for each in cache
    ]
    others = {
        1: pl.BlockSpec((1,), lambda group, head, _: (group // num_readers,)),
        2: pl.BlockSpec((None, length), lambda group, head, _: (group // num_readers, 0)),
        3: pl.BlockSpec((None, None, width), lambda group, head, _: (group // num_readers, head, 0)),
    }
    found = [
        pl.BlockSpec((None, None, None, parts[-1], width), lambda group, head, part: (group, head, part, 0, 0)),
        pl.BlockSpec((None, None, None, parts[-1]), lambda group, head, part: (group, head, part, 0)),
    ]
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((*parts, width), parts)]
    shapes += [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in cache] if is_written else []
    return pl.pallas_call(
        kernel,
        grid=parts[:3],
        in_specs=[query, *caches, *(others[each.ndim] for each in of_cache)],
        out_specs=[*found, *caches][: len(shapes)],
        out_shape=shapes,
        input_output_aliases={1: 2, 2: 3} if is_written else {},
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=_NUM_STAGES),
        interpret=interpret,
        name="flash_decode",
    )(query_CGKQH, *cache, *of_cache)


def _prefix_kernel(query_ref: Any, key_ref: Any, value_ref: Any, mask_ref: Any, output_ref: Any, log_ref: Any) -> None:
    query_RH = _queries(query_ref)
    num_queries, width = query_RH.shape
    nothing = jnp.full(num_queries, _MASKED_SCORE), jnp.ones(num_queries), jnp.zeros((num_queries, width))
    found = _online_softmax(
        query_RH, key_ref, value_ref, lambda block: mask_ref[block], nothing, len(mask_ref) // _BLOCK_KEYS
    )
    _store(found, query_ref, output_ref, log_ref)


def _suffix_kernel(
    query_ref: Any,
    key_ref: Any,
    value_ref: Any,
    step_ref: Any,
    new_key_ref: Any,
    new_value_ref: Any,
    output_ref: Any,
    log_ref: Any,
    written_key_ref: Any,
    written_value_ref: Any,
) -> None:
    """The first part begins with the new token and writes it; no part reads its column."""
    query_RH, step, is_first = _queries(query_ref), step_ref[0], pl.program_id(2) == 0
    new_key_H, new_value_H = new_key_ref[...], new_value_ref[...]
    score_R = query_RH.shape[1] ** -0.5 * jnp.sum(
        query_RH.astype(jnp.float32) * new_key_H.astype(jnp.float32)[None], axis=1
    )
    value_RH = jnp.broadcast_to(new_value_H.astype(jnp.float32)[None], query_RH.shape)
    start = jnp.where(is_first, score_R, _MASKED_SCORE), jnp.ones_like(score_R), value_RH

    def is_visible(block: Any) -> Bool[Array, " S"]:
        return block.start + jnp.arange(_BLOCK_KEYS) < step

    found = _online_softmax(query_RH, key_ref, value_ref, is_visible, start, pl.cdiv(step, _BLOCK_KEYS))
    _store(found, query_ref, output_ref, log_ref)

    @pl.when(is_first)
    def _() -> None:
        written_key_ref[:, step] = new_key_H
        written_value_ref[step, :] = new_value_H


def _online_softmax(
    query_RH: Array,
    key_ref: Any,
    value_ref: Any,
    is_visible: Callable[[Any], Array],
    start: tuple[Array, Array, Array],
    num_blocks: Any,
) -> tuple[Array, Array, Array]:
    """Through this program's part of the first blocks of keys.

    Args:
        is_visible: (the columns of a block) -> which of them are.
        start: what was found before: of every query the largest score, and relative to its exponential the sum of the
            exponentials, and of these with the values. With a hidden score it is what weighs nothing.

    Returns:
        The same with all that is found.
    """
    in_part = pl.cdiv(num_blocks, pl.num_programs(2))
    first = pl.program_id(2) * in_part

    def step(number: Array, found: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        top_R, total_R, sum_RH = found
        block = pl.ds(number * _BLOCK_KEYS, _BLOCK_KEYS)
        score_RS = jnp.dot(query_RH, key_ref[:, block], preferred_element_type=jnp.float32)
        score_RS = jnp.where(is_visible(block)[None], query_RH.shape[1] ** -0.5 * score_RS, _MASKED_SCORE)
        new_top_R = jnp.maximum(top_R, jnp.max(score_RS, axis=1))
        weight_RS, kept_R = jnp.exp(score_RS - new_top_R[:, None]), jnp.exp(top_R - new_top_R)
        value_SH = value_ref[block, :]
        added_RH = jnp.dot(weight_RS.astype(value_SH.dtype), value_SH, preferred_element_type=jnp.float32)
        return new_top_R, kept_R * total_R + jnp.sum(weight_RS, axis=1), kept_R[:, None] * sum_RH + added_RH

    return jax.lax.fori_loop(first, jnp.minimum(first + in_part, num_blocks), step, start)


def _store(found: tuple[Array, Array, Array], query_ref: Any, output_ref: Any, log_ref: Any) -> None:
    top_R, total_R, sum_RH = found
    rows, is_query_R = _rows(query_ref)
    triton.store(output_ref.at[rows, :], sum_RH / total_R[:, None], mask=is_query_R[:, None])
    triton.store(log_ref.at[rows], top_R + jnp.log(total_R), mask=is_query_R)


def _queries(query_ref: Any) -> Float[Array, "R H"]:
    """Those of all samples; keys and values are loaded whole: with a mask they would be read number by number."""
    _, num_queries, width = query_ref.shape
    _, is_query_R = _rows(query_ref)
    row_R1 = jnp.arange(len(is_query_R))[:, None]
    places = query_ref.at[row_R1 // num_queries, row_R1 % num_queries, jnp.arange(width)[None]]
    return triton.load(places, mask=is_query_R[:, None], other=0.0)


def _rows(query_ref: Any) -> tuple[Any, Bool[Array, " R"]]:
    """As many as the smallest product has, or the next power of two, and which of them there are queries for."""
    num_queries = query_ref.shape[0] * query_ref.shape[1]
    num_padded = max(_LEAST_QUERIES, pl.next_power_of_2(num_queries))
    return pl.ds(0, num_padded), jnp.arange(num_padded) < num_queries


def _merge(of_prompt: _PartialSoftmax, own: _PartialSoftmax, dtype: Any, *, interpret: bool) -> Float[Array, "B K Q H"]:
    """Of every row, what was found for it in its prompt, with other samples, and in its own tokens."""
    num_rows, num_kv_heads, _, num_queries, width = own[0].shape
    together = num_rows // len(of_prompt[0])

    def place_in_prompt(row: Any, head: Any, query: Any) -> tuple[Any, ...]:
        return row // together, head, 0, row % together * num_queries + query

    def place(row: Any, head: Any, query: Any) -> tuple[Any, ...]:
        return row, head, 0, query

    def specs(found: _PartialSoftmax, place: Any) -> tuple[pl.BlockSpec, pl.BlockSpec]:
        num_parts = found[0].shape[2]
        return (
            pl.BlockSpec((None, None, num_parts, None, width), lambda *index: (*place(*index), 0)),
            pl.BlockSpec((None, None, num_parts, None), place),
        )

    return pl.pallas_call(
        _merge_kernel,
        grid=(num_rows, num_kv_heads, num_queries),
        in_specs=[*specs(of_prompt, place_in_prompt), *specs(own, place)],
        out_specs=pl.BlockSpec((None, None, None, width), lambda row, head, query: (row, head, query, 0)),
        out_shape=jax.ShapeDtypeStruct((num_rows, num_kv_heads, num_queries, width), dtype),
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        name="merge_decode",
    )(*of_prompt, *own)


def _merge_kernel(output_ref: Any, log_ref: Any, own_output_ref: Any, own_log_ref: Any, merged_ref: Any) -> None:
    log_I, own_log_J = _logs(log_ref), _logs(own_log_ref)
    top = jnp.maximum(jnp.max(log_I), jnp.max(own_log_J))
    share_I, own_share_J = jnp.exp(log_I - top), jnp.exp(own_log_J - top)
    sum_H = _weighted(output_ref, share_I) + _weighted(own_output_ref, own_share_J)
    merged_ref[...] = (sum_H / (jnp.sum(share_I) + jnp.sum(own_share_J))).astype(merged_ref.dtype)


def _logs(ref: Any) -> Array:
    """Of all parts, filled up to a power of two by parts in which nothing is seen."""
    num_padded = pl.next_power_of_2(ref.shape[0])
    return triton.load(ref.at[pl.ds(0, num_padded)], mask=jnp.arange(num_padded) < ref.shape[0], other=_MASKED_SCORE)


def _weighted(ref: Any, share_I: Array) -> Array:
    is_part_I = jnp.arange(len(share_I)) < ref.shape[0]
    output_IH = triton.load(ref.at[pl.ds(0, len(share_I)), :], mask=is_part_I[:, None], other=0.0)
    return jnp.sum(share_I[:, None] * output_IH, axis=0)
