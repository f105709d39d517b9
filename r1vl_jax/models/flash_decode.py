"""Decoding's attention on GPU by kernels that never write scores.

A program of the first kernel attends to one block of keys for one head: those of a prompt for many of its samples
together, those of a row's own tokens for the row. A second kernel merges what they found, by its log-sum-exp.
"""

import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from r1vl_jax.arrays import BATCH_AXES
from r1vl_jax.sharding import num_batch_shards

try:
    from jax.experimental.pallas import triton
except ImportError:  # JAX 0.11 announces that it will go; plain attention is there
    triton: Any = None

_BLOCKS = (128, 64)  # keys of a program; they must divide into whole blocks
_LEAST_QUERIES, _MOST_QUERIES = 16, 64  # of a program: the rows of the smallest product on tensor cores; no fewer fit
_HIDDEN = -1e30

# Of I blocks: what R queries of a head would get if there were no other [B, K, I, R, H], and the logarithm of the sum
# of the scores' exponentials [B, K, I, R].
_Found = tuple[Array, Array]


def is_suited(query_BNH: Array, prefix_mask_PS: Array, suffix_key_BKHT: Array) -> bool:
    """Whether the kernels can take these: 16 bits, as wide as tensor cores multiply, whole blocks of keys."""
    _, num_heads, width = query_BNH.shape
    lengths = prefix_mask_PS.shape[-1], suffix_key_BKHT.shape[-1]
    is_suited = (
        query_BNH.dtype in (jnp.bfloat16, jnp.float16)
        and width in (16, 32, 64, 128)
        and num_heads // suffix_key_BKHT.shape[1] <= _MOST_QUERIES
        and all(length % _BLOCKS[-1] == 0 for length in lengths)
    )
    if is_suited and triton is None:
        warnings.warn("this JAX has no Pallas for Triton: decoding on GPU takes plain attention", stacklevel=2)
    return is_suited and triton is not None


def flash_decode(
    query_BNH: Float[Array, "B N H"],
    *,
    prefix_key_PKHS: Float[Array, "P K H S"],
    prefix_value_PKSH: Float[Array, "P K S H"],
    prefix_mask_PS: Bool[Array, "P S"],
    suffix_key_BKHT: Float[Array, "B K H T"],
    suffix_value_BKTH: Float[Array, "B K T H"],
    step: Int[Array, ""] | Int[Array, " B"],
    mesh: Mesh | None,
    interpret: bool = False,
) -> Float[Array, "B N H"]:
    """`attention.decode_attention`, for what is suited.

    Args:
        mesh: rows lie over its (data, fsdp) if the prompts divide so, heads over its tensor axis; None is one device.
        interpret: computes what the kernels would on whatever device there is, slowly; for tests.
    """
    num_prompts, prefix_length = prefix_mask_PS.shape
    end_B = jnp.broadcast_to(step + 1, query_BNH.shape[:1])
    is_past_BT = jnp.arange(suffix_key_BKHT.shape[-1])[None] < end_B[:, None]
    attend = partial(_attend, interpret=interpret)
    if mesh is not None:
        is_divided = num_prompts % num_batch_shards(mesh) == 0
        rows = PartitionSpec(BATCH_AXES if is_divided else None)
        heads = PartitionSpec(*rows, "tensor")
        attend = jax.shard_map(
            attend,
            mesh=mesh,
            in_specs=(heads, (heads, heads, rows, rows), (heads, heads, rows, rows)),
            out_specs=heads,
            check_vma=False,
        )
    prefix = prefix_key_PKHS, prefix_value_PKSH, prefix_mask_PS, jnp.full(num_prompts, prefix_length)
    return attend(query_BNH, prefix, (suffix_key_BKHT, suffix_value_BKTH, is_past_BT, end_B))


def _attend(query_BNH: Array, prefix: tuple[Array, ...], suffix: tuple[Array, ...], *, interpret: bool) -> Array:
    num_rows, num_heads, width = query_BNH.shape
    num_prompts, num_kv_heads, _, _ = prefix[0].shape
    num_samples, num_queries = num_rows // num_prompts, num_heads // num_kv_heads
    query_BKQH = query_BNH.reshape(num_rows, num_kv_heads, num_queries, width)
    together = next(
        size for size in range(num_samples, 0, -1) if not num_samples % size and size * num_queries <= _MOST_QUERIES
    )
    query_CKGQH = jnp.swapaxes(query_BKQH.reshape(-1, together, *query_BKQH.shape[1:]), 1, 2)
    of_prompt = _find(query_CKGQH.reshape(*query_CKGQH.shape[:2], 1, -1, width), *prefix, interpret=interpret)
    own = _find(query_CKGQH, *suffix, interpret=interpret)
    merged_BKQH = _merge(of_prompt, own, query_BNH.dtype, interpret=interpret)
    return merged_BKQH.reshape(query_BNH.shape)


def _find(
    query_CKGRH: Float[Array, "C K G R H"],
    key_BKHS: Float[Array, "B K H S"],
    value_BKSH: Float[Array, "B K S H"],
    is_visible_BS: Bool[Array, "B S"],
    end_B: Int[Array, " B"],
    *,
    interpret: bool,
) -> _Found:
    """For C * G rows of queries, equally many of which see each row of keys.

    Args:
        end_B: no key of a row is visible from this column on.
    """
    num_groups, num_kv_heads, num_samples, num_queries, width = query_CKGRH.shape
    num_rows, length = num_groups * num_samples, is_visible_BS.shape[1]
    num_readers = num_rows // len(is_visible_BS)
    block = next(size for size in _BLOCKS if length % size == 0)
    parts = (num_rows, num_kv_heads, length // block, num_queries)
    return pl.pallas_call(
        _find_kernel,
        grid=parts[:3],
        in_specs=[
            pl.BlockSpec(
                (None, None, None, num_queries, width),
                lambda row, head, _: (row // num_samples, head, row % num_samples, 0, 0),
            ),
            pl.BlockSpec((None, None, width, block), lambda row, head, number: (row // num_readers, head, 0, number)),
            pl.BlockSpec((None, None, block, width), lambda row, head, number: (row // num_readers, head, number, 0)),
            pl.BlockSpec((None, block), lambda row, head, number: (row // num_readers, number)),
            pl.BlockSpec((1,), lambda row, head, number: (row // num_readers,)),
        ],
        out_specs=(
            pl.BlockSpec((None, None, None, num_queries, width), lambda row, head, number: (row, head, number, 0, 0)),
            pl.BlockSpec((None, None, None, num_queries), lambda row, head, number: (row, head, number, 0)),
        ),
        out_shape=tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((*parts, width), parts)),
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        name="flash_decode",
    )(query_CKGRH, key_BKHS, value_BKSH, is_visible_BS, end_B)


def _find_kernel(
    query_ref: Any, key_ref: Any, value_ref: Any, is_visible_ref: Any, end_ref: Any, output_ref: Any, log_ref: Any
) -> None:
    num_queries, width = query_ref.shape
    num_padded = max(_LEAST_QUERIES, pl.next_power_of_2(num_queries))
    rows, is_query_R = pl.ds(0, num_padded), jnp.arange(num_padded) < num_queries
    has_keys = pl.program_id(2) * len(is_visible_ref) < end_ref[0]

    @pl.when(has_keys)
    def _() -> None:
        query_RH = triton.load(query_ref.at[rows, :], mask=is_query_R[:, None], other=0.0)
        key_HS, value_SH = key_ref[...], value_ref[...]  # without a mask, which would have them read number by number
        is_visible_1S = is_visible_ref[...][None]
        score_RS = width**-0.5 * jnp.dot(query_RH, key_HS, preferred_element_type=jnp.float32)
        score_RS = jnp.where(is_visible_1S, score_RS, _HIDDEN)
        top_R = jnp.max(score_RS, axis=1)
        weight_RS = jnp.exp(score_RS - top_R[:, None])
        total_R = jnp.sum(weight_RS, axis=1)
        sum_RH = jnp.dot(weight_RS.astype(value_SH.dtype), value_SH, preferred_element_type=jnp.float32)
        triton.store(output_ref.at[rows, :], sum_RH / total_R[:, None], mask=is_query_R[:, None])
        triton.store(log_ref.at[rows], top_R + jnp.log(total_R), mask=is_query_R)

    @pl.when(jnp.logical_not(has_keys))
    def _() -> None:
        triton.store(log_ref.at[rows], jnp.full(num_padded, _HIDDEN), mask=is_query_R)  # so nobody reads the output


def _merge(of_prompt: _Found, own: _Found, dtype: Any, *, interpret: bool) -> Float[Array, "B K Q H"]:
    """Of every row, what was found for it in its prompt, with other samples, and in its own tokens."""
    num_rows, num_kv_heads, _, num_queries, width = own[0].shape
    together = num_rows // len(of_prompt[0])

    def place_in_prompt(row: Any, head: Any, query: Any) -> tuple[Any, ...]:
        return row // together, head, 0, row % together * num_queries + query

    def place(row: Any, head: Any, query: Any) -> tuple[Any, ...]:
        return row, head, 0, query

    def specs(found: _Found, place: Any) -> tuple[pl.BlockSpec, pl.BlockSpec]:
        num_blocks = found[0].shape[2]
        return (
            pl.BlockSpec((None, None, num_blocks, None, width), lambda *index: (*place(*index), 0)),
            pl.BlockSpec((None, None, num_blocks, None), place),
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
    """Of all blocks, filled up to a power of two by blocks in which nothing is seen."""
    num_padded = pl.next_power_of_2(ref.shape[0])
    return triton.load(ref.at[pl.ds(0, num_padded)], mask=jnp.arange(num_padded) < ref.shape[0], other=_HIDDEN)


def _weighted(ref: Any, share_I: Array) -> Array:
    """The sum over blocks; those without a share may hold anything."""
    output_IH = triton.load(ref.at[pl.ds(0, len(share_I)), :], mask=share_I[:, None] > 0, other=0.0)
    return jnp.sum(share_I[:, None] * output_IH, axis=0)
