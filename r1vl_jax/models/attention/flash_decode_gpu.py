"""Flash-decoding on GPU: attention of one new token per row to the key/value caches, in Pallas kernels for Triton.

Like `decode.decode_attention`, in three kernel launches that never write scores to memory:

    1. `_prefix_kernel`   prefix caches; the samples of a prompt are tiled together, so that its keys are loaded once
    2. `_suffix_kernel`   each row's suffix cache, into which it also writes the new token
    3. `_merge_kernel`    combines the partial softmaxes of both by their log-sum-exp

1 and 2 run on a grid (groups of rows, key/value heads, splits). One new token per row makes few queries, too few to
occupy the device by themselves, so the keys of a head are split over several programs (split-K). Each computes an
online softmax over its blocks of keys and writes a partial output and its log-sum-exp.

    keys of one head    | block | block | block | block | block | block |        block = 64 keys
    program (split)     |------- 0 -----|------- 1 -----|------- 2 -----|
                          output, lse     output, lse     output, lse    ->  merge

Sources: Milakov and Gimelshein, Online normalizer calculation for softmax, 2018, https://arxiv.org/abs/1805.02867; Dao,
FlashAttention-2, 2023, https://arxiv.org/abs/2307.08691; Dao et al., Flash-Decoding for long-context inference, 2023,
https://crfm.stanford.edu/2023/10/12/flashdecoding.html.
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

from r1vl_jax.models.attention.attention import MASKED_SCORE

try:
    from jax.experimental.pallas import triton
except ImportError:  # JAX 0.11 announces its removal; decoding then uses plain attention
    triton: Any = None

_BLOCK_KEYS = 64  # keys of one iteration of the online softmax (BLOCK_N in FlashAttention)
_NUM_STAGES = 3  # software pipelining: blocks of keys and values in flight, loaded while another is computed
# Programs to split a grid into, if there are enough blocks of keys: two for each of the 132 SMs of an H100 or H200.
_TARGET_PROGRAMS = 264
# Rows of a query tile (BLOCK_M): tensor cores multiply tiles of at least 16 rows.
_MIN_TILE_ROWS, _MAX_TILE_ROWS = 16, 64

KeyValue = tuple[Array, Array]  # of a token [B, K, H], or of a cache [B, K, H, T] and [B, K, T, H]

# The partial results of I splits for tiles of R queries: the normalised output over the split's keys alone
# [B, K, I, R, H], and the log of the sum of exp(score) over them (LSE) [B, K, I, R].
_PartialSoftmax = Sequence[Array]

# The state (m, l, acc) of an online softmax over the keys seen so far, for R queries: the running max of the scores
# [R], the running sum of exp(score - max) [R], and the accumulator, the sum of exp(score - max) * value [R, H].
_Running = tuple[Array, Array, Array]


def is_supported(query_BNH: Array, prefix_mask_PS: Array, suffix_key_BKHT: Array) -> bool:
    """Whether the kernels can be used: 16-bit dtype, a head width of a power of two, caches of whole blocks of keys."""
    _, num_heads, head_dim = query_BNH.shape
    lengths = prefix_mask_PS.shape[-1], suffix_key_BKHT.shape[-1]
    fits = (
        query_BNH.dtype in (jnp.bfloat16, jnp.float16)
        and head_dim in (16, 32, 64, 128)
        and num_heads // suffix_key_BKHT.shape[1] <= _MAX_TILE_ROWS
        and all(length % _BLOCK_KEYS == 0 for length in lengths)
    )
    if fits and triton is None:
        warnings.warn("this JAX has no Pallas for Triton: decoding on GPU uses plain attention", stacklevel=2)
    return fits and triton is not None


def flash_decode(
    query_BNH: Float[Array, "B N H"],
    new: KeyValue,
    *,
    prefix: KeyValue,
    prefix_mask_PS: Bool[Array, "P S"],
    suffix: KeyValue,
    step: Int[Array, ""] | Int[Array, " B"],
    is_tensor_parallel: bool = False,
    interpret: bool = False,
) -> tuple[Float[Array, "B N H"], KeyValue]:
    """`decode.decode_attention` by the kernels, where `is_supported`.

    Args:
        interpret: runs the kernels in Pallas' interpreter, slowly, on any device; for tests.
    """
    attend = partial(_attend, interpret=interpret)
    if is_tensor_parallel:
        # XLA cannot partition a custom kernel: each device runs it for its own heads. Rows are already local, as this
        # is called inside a shard_map over rows.
        replicated, heads = PartitionSpec(), PartitionSpec(None, "tensor")
        attend = jax.shard_map(
            attend,
            in_specs=(heads, heads, heads, replicated, heads, replicated),
            out_specs=heads,
            axis_names={"tensor"},
            check_vma=False,  # pallas_call does not declare over which mesh axes its results vary
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
    num_rows, num_heads, head_dim = query_BNH.shape
    num_prompts, num_kv_heads, _, _ = prefix[0].shape
    num_samples, num_queries = num_rows // num_prompts, num_heads // num_kv_heads
    query_BKQH = query_BNH.reshape(num_rows, num_kv_heads, num_queries, head_dim)
    # GQA packing: a tile has the Q query heads of one key/value head, and for the prefix those of several samples of
    # the prompt, as many as divide its samples and fit.
    samples_per_tile = next(
        size for size in range(num_samples, 0, -1) if not num_samples % size and size * num_queries <= _MAX_TILE_ROWS
    )
    query_CGKQH = query_BKQH.reshape(-1, samples_per_tile, *query_BKQH.shape[1:])
    # Launch 1: C = B / samples_per_tile groups share the P prefix caches.
    prefix_partials = _split_k_attention(
        _prefix_kernel, query_CGKQH, prefix, prefix_mask_PS, writes_cache=False, interpret=interpret
    )
    # Launch 2: every row is a group of its own, with its own suffix cache.
    *suffix_partials, key, value = _split_k_attention(
        _suffix_kernel, query_BKQH[:, None], suffix, step_B, *new, writes_cache=True, interpret=interpret
    )
    merged_BKQH = _merge(prefix_partials, suffix_partials, query_BNH.dtype, interpret=interpret)
    return merged_BKQH.reshape(query_BNH.shape), (key, value)


def _split_k_attention(
    kernel: Callable[..., None],
    query_CGKQH: Float[Array, "C G K Q H"],
    cache: KeyValue,
    *per_cache_row: Array,
    writes_cache: bool,
    interpret: bool,
) -> list[Array]:
    """Launches an attention kernel on the grid (C groups, K key/value heads, I splits).

    A program computes the tile of a group's G x Q queries against its split of the keys. Groups outnumber the rows of
    the cache by a whole factor: group c reads row c // (C / rows).

    Args:
        kernel: takes references to queries, keys, values, its part of `per_cache_row`, and to its results.
        per_cache_row: other inputs with a row for each row of the cache, of shape [B], [B, S] or [B, K, H]; a program
            gets its row's number, columns, or vector for its head.
        writes_cache: whether the caches are also results, updated in place.

    Returns:
        Partial outputs and log-sum-exps (`_PartialSoftmax`), then key and value cache if they are written.
    """
    num_groups, num_samples, num_kv_heads, num_queries, head_dim = query_CGKQH.shape
    num_cache_rows, _, _, length = cache[0].shape
    groups_per_cache_row = num_groups // num_cache_rows
    # A power of two with which the grid has at most `_TARGET_PROGRAMS`, and no more than one split per block of keys.
    num_splits = min(2 ** int(math.log2(max(_TARGET_PROGRAMS / (num_groups * num_kv_heads), 1))), length // _BLOCK_KEYS)
    lse_shape = (num_groups, num_kv_heads, num_splits, num_samples * num_queries)

    # A block spec says which part of an array a program (group, head, split) sees; None drops the axis. Under Triton it
    # is address arithmetic: nothing is loaded before the kernel reads a reference. So every split sees all columns of
    # its head's keys and values; the kernel picks the split's blocks, as it knows how many columns are written.
    query_spec = pl.BlockSpec(
        (None, num_samples, None, num_queries, head_dim), lambda group, head, _: (group, 0, head, 0, 0)
    )
    cache_specs = [
        pl.BlockSpec((None, None, *each.shape[2:]), lambda group, head, _: (group // groups_per_cache_row, head, 0, 0))
        for each in cache
    ]
    spec_by_rank = {
        1: pl.BlockSpec((1,), lambda group, head, _: (group // groups_per_cache_row,)),
        2: pl.BlockSpec((None, length), lambda group, head, _: (group // groups_per_cache_row, 0)),
        3: pl.BlockSpec((None, None, head_dim), lambda group, head, _: (group // groups_per_cache_row, head, 0)),
    }
    # Every program writes one partial: there is no reduction between programs before the merge.
    partial_specs = [
        pl.BlockSpec(
            (None, None, None, lse_shape[-1], head_dim), lambda group, head, split: (group, head, split, 0, 0)
        ),
        pl.BlockSpec((None, None, None, lse_shape[-1]), lambda group, head, split: (group, head, split, 0)),
    ]
    out_shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((*lse_shape, head_dim), lse_shape)]
    out_shapes += [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in cache] if writes_cache else []
    return pl.pallas_call(
        kernel,
        grid=lse_shape[:3],
        in_specs=[query_spec, *cache_specs, *(spec_by_rank[each.ndim] for each in per_cache_row)],
        out_specs=[*partial_specs, *cache_specs][: len(out_shapes)],
        out_shape=out_shapes,
        input_output_aliases={1: 2, 2: 3} if writes_cache else {},  # keys and values are inputs 1, 2 and results 2, 3
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=_NUM_STAGES),
        interpret=interpret,
        name="flash_decode",
    )(query_CGKQH, *cache, *per_cache_row)


def _prefix_kernel(query_ref: Any, key_ref: Any, value_ref: Any, mask_ref: Any, output_ref: Any, lse_ref: Any) -> None:
    """One split of a prompt's keys, for a tile of queries from several of its samples."""
    query_RH = _load_query_tile(query_ref)
    num_rows, head_dim = query_RH.shape
    # No key seen yet. The sum starts at 1, not 0, so that a split that gets no block does not divide by zero; the first
    # visible score rescales it by exp(-1e30 - max) = 0.
    initial = jnp.full(num_rows, MASKED_SCORE), jnp.ones(num_rows), jnp.zeros((num_rows, head_dim))
    running = _online_softmax(
        query_RH, key_ref, value_ref, lambda block: mask_ref[block], initial, len(mask_ref) // _BLOCK_KEYS
    )
    _store_partial(running, query_ref, output_ref, lse_ref)


def _suffix_kernel(
    query_ref: Any,
    key_ref: Any,
    value_ref: Any,
    step_ref: Any,
    new_key_ref: Any,
    new_value_ref: Any,
    output_ref: Any,
    lse_ref: Any,
    written_key_ref: Any,
    written_value_ref: Any,
) -> None:
    """One split of the keys before the new token, for the tile of one row's queries.

    The first split also attends to the new token, from its inputs, and writes it to the cache. That happens in place
    while another split may be loading the block around it, so the new token's column is masked in every block.
    """
    query_RH, step, is_first_split = _load_query_tile(query_ref), step_ref[0], pl.program_id(2) == 0
    new_key_H, new_value_H = new_key_ref[...], new_value_ref[...]
    # Q k for a single key: a product with one column has no shape for tensor cores, so it is a sum.
    score_R = query_RH.shape[1] ** -0.5 * jnp.sum(
        query_RH.astype(jnp.float32) * new_key_H.astype(jnp.float32)[None], axis=1
    )
    value_RH = jnp.broadcast_to(new_value_H.astype(jnp.float32)[None], query_RH.shape)
    # The online softmax after one key, the new token: m = its score, l = exp(0) = 1, acc = its value. In other splits
    # m is the masked score, so that the first visible key rescales l and acc to zero.
    initial = jnp.where(is_first_split, score_R, MASKED_SCORE), jnp.ones_like(score_R), value_RH

    def is_visible(block: Any) -> Bool[Array, " S"]:
        return block.start + jnp.arange(_BLOCK_KEYS) < step

    # Blocks after the last written column are not visited.
    running = _online_softmax(query_RH, key_ref, value_ref, is_visible, initial, pl.cdiv(step, _BLOCK_KEYS))
    _store_partial(running, query_ref, output_ref, lse_ref)

    # One write a head and row; `input_output_aliases` makes it an update of the cache in place.
    @pl.when(is_first_split)
    def _() -> None:
        written_key_ref[:, step] = new_key_H
        written_value_ref[step, :] = new_value_H


def _online_softmax(
    query_RH: Array,
    key_ref: Any,
    value_ref: Any,
    is_visible: Callable[[Any], Array],
    initial: _Running,
    num_blocks: Any,
) -> _Running:
    """FlashAttention's inner loop over the blocks of keys of this program's split.

        m' = max(m, max_s score)    p = exp(score - m')    alpha = exp(m - m')
        l' = alpha l + sum_s p      acc' = alpha acc + p V

    Args:
        is_visible: (the columns of a block) -> which of its keys are attended to; the scores of others are masked.
        initial: the state before the first block. Where its max is `MASKED_SCORE`, its sum and accumulator count for
            nothing as soon as a key is visible.
        num_blocks: blocks of keys of the head, which are dealt to its splits in contiguous ranges.

    Returns:
        The state after the last block.
    """
    blocks_per_split = pl.cdiv(num_blocks, pl.num_programs(2))
    first_block = pl.program_id(2) * blocks_per_split

    def body(index: Array, running: _Running) -> _Running:
        running_max_R, running_sum_R, accumulator_RH = running
        block = pl.ds(index * _BLOCK_KEYS, _BLOCK_KEYS)
        # Scores of this block of keys, Q K^T. Keys are stored [H, S], so their tile needs no transpose.
        score_RS = jnp.dot(query_RH, key_ref[:, block], preferred_element_type=jnp.float32)
        # Masking is applied to the scores only: keys and values are loaded unmasked, see `_load_query_tile`.
        score_RS = jnp.where(is_visible(block)[None], query_RH.shape[1] ** -0.5 * score_RS, MASKED_SCORE)
        # The exponentials of this block are relative to the new max; those of earlier blocks are rescaled to it.
        new_max_R = jnp.maximum(running_max_R, jnp.max(score_RS, axis=1))
        weight_RS, rescale_R = jnp.exp(score_RS - new_max_R[:, None]), jnp.exp(running_max_R - new_max_R)
        value_SH = value_ref[block, :]
        # P V: weights are rounded to the values' 16 bits for tensor cores; max, sum and accumulator stay float32.
        weighted_value_RH = jnp.dot(weight_RS.astype(value_SH.dtype), value_SH, preferred_element_type=jnp.float32)
        return (
            new_max_R,
            rescale_R * running_sum_R + jnp.sum(weight_RS, axis=1),
            rescale_R[:, None] * accumulator_RH + weighted_value_RH,
        )

    # A range that starts after the last block is empty. The bounds are known at run time only, so the time for a suffix
    # is that of its written columns, not of its capacity.
    return jax.lax.fori_loop(first_block, jnp.minimum(first_block + blocks_per_split, num_blocks), body, initial)


def _store_partial(running: _Running, query_ref: Any, output_ref: Any, lse_ref: Any) -> None:
    """Writes output = acc / l and lse = m + log(l) of the tile's real rows."""
    running_max_R, running_sum_R, accumulator_RH = running
    rows, is_query_R = _tile_rows(query_ref)
    triton.store(output_ref.at[rows, :], accumulator_RH / running_sum_R[:, None], mask=is_query_R[:, None])
    triton.store(lse_ref.at[rows], running_max_R + jnp.log(running_sum_R), mask=is_query_R)


def _load_query_tile(query_ref: Any) -> Float[Array, "R H"]:
    """The queries [G, Q, H] of all samples as one tile, padded with zero rows to a shape for tensor cores.

    Only this small load is masked. Masked loads of keys and values would be done element by element, not as vectors.
    """
    _, num_queries, head_dim = query_ref.shape
    _, is_query_R = _tile_rows(query_ref)
    row_R1 = jnp.arange(len(is_query_R))[:, None]
    # Row r is query r % Q of sample r // Q.
    pointers = query_ref.at[row_R1 // num_queries, row_R1 % num_queries, jnp.arange(head_dim)[None]]
    return triton.load(pointers, mask=is_query_R[:, None], other=0.0)


def _tile_rows(query_ref: Any) -> tuple[Any, Bool[Array, " R"]]:
    """The rows of the tile, padded to a power of two and to 16 at least, and which of them are queries."""
    num_rows = query_ref.shape[0] * query_ref.shape[1]
    num_padded = max(_MIN_TILE_ROWS, pl.next_power_of_2(num_rows))
    return pl.ds(0, num_padded), jnp.arange(num_padded) < num_rows


def _merge(
    prefix_partials: _PartialSoftmax, suffix_partials: _PartialSoftmax, dtype: Any, *, interpret: bool
) -> Float[Array, "B K Q H"]:
    """Merges all splits of prefix and suffix; a program handles one query head of one row.

    A row's prefix partials lie in the tile that it shares with other samples of the prompt: row b is sample
    b % samples_per_tile of tile b // samples_per_tile.
    """
    num_rows, num_kv_heads, _, num_queries, head_dim = suffix_partials[0].shape
    samples_per_tile = num_rows // len(prefix_partials[0])

    def prefix_index(row: Any, head: Any, query: Any) -> tuple[Any, ...]:
        return row // samples_per_tile, head, 0, row % samples_per_tile * num_queries + query

    def suffix_index(row: Any, head: Any, query: Any) -> tuple[Any, ...]:
        return row, head, 0, query

    def specs(partials: _PartialSoftmax, index: Any) -> tuple[pl.BlockSpec, pl.BlockSpec]:
        num_splits = partials[0].shape[2]
        return (
            pl.BlockSpec((None, None, num_splits, None, head_dim), lambda *program: (*index(*program), 0)),
            pl.BlockSpec((None, None, num_splits, None), index),
        )

    return pl.pallas_call(
        _merge_kernel,
        grid=(num_rows, num_kv_heads, num_queries),
        in_specs=[*specs(prefix_partials, prefix_index), *specs(suffix_partials, suffix_index)],
        out_specs=pl.BlockSpec((None, None, None, head_dim), lambda row, head, query: (row, head, query, 0)),
        out_shape=jax.ShapeDtypeStruct((num_rows, num_kv_heads, num_queries, head_dim), dtype),
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        name="merge_decode",
    )(*prefix_partials, *suffix_partials)


def _merge_kernel(
    prefix_output_ref: Any, prefix_lse_ref: Any, suffix_output_ref: Any, suffix_lse_ref: Any, merged_ref: Any
) -> None:
    """Log-sum-exp merge: sum_i exp(lse_i - max) output_i / sum_i exp(lse_i - max), over the splits i of both."""
    prefix_lse_I, suffix_lse_J = _load_lse(prefix_lse_ref), _load_lse(suffix_lse_ref)
    max_lse = jnp.maximum(jnp.max(prefix_lse_I), jnp.max(suffix_lse_J))
    # The largest weighs 1, so that neither sum can overflow or vanish. The new token is always visible: its split's LSE
    # is finite, and splits without a visible key weigh exp(-1e30) = 0 beside it.
    prefix_weight_I, suffix_weight_J = jnp.exp(prefix_lse_I - max_lse), jnp.exp(suffix_lse_J - max_lse)
    sum_H = _weighted_sum(prefix_output_ref, prefix_weight_I) + _weighted_sum(suffix_output_ref, suffix_weight_J)
    merged_ref[...] = (sum_H / (jnp.sum(prefix_weight_I) + jnp.sum(suffix_weight_J))).astype(merged_ref.dtype)


def _load_lse(lse_ref: Any) -> Array:
    """The log-sum-exp of every split. Triton's shapes are powers of two: padding gets a value that weighs nothing."""
    num_padded = pl.next_power_of_2(lse_ref.shape[0])
    is_split_I = jnp.arange(num_padded) < lse_ref.shape[0]
    return triton.load(lse_ref.at[pl.ds(0, num_padded)], mask=is_split_I, other=MASKED_SCORE)


def _weighted_sum(output_ref: Any, weight_I: Array) -> Array:
    is_split_I = jnp.arange(len(weight_I)) < output_ref.shape[0]
    output_IH = triton.load(output_ref.at[pl.ds(0, len(weight_I)), :], mask=is_split_I[:, None], other=0.0)
    return jnp.sum(weight_I[:, None] * output_IH, axis=0)
