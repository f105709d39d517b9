"""Attention of one new token per row: to its prompt, shared by the rows of a group, and to the row's own tokens."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from r1vl_jax.models.attention import flash_decode_gpu
from r1vl_jax.models.attention.attention import MASKED_SCORE, check_platform
from r1vl_jax.models.attention.flash_decode_gpu import KeyValue


def decode_attention(
    query_BNH: Float[Array, "B N H"],
    new: KeyValue,
    *,
    prefix: KeyValue,
    prefix_mask_PS: Bool[Array, "P S"],
    suffix: KeyValue,
    step: Int[Array, ""] | Int[Array, " B"],
    platform: str,
    is_divided: bool = False,
) -> tuple[Float[Array, "B N H"], KeyValue]:
    """Attention of one new token per row to its prompt and to the row's own tokens, itself included.

    The two parts are attended to apart and merged by their log-sum-exp, so the keys of a prompt are read once for all
    the rows that share it: row p*G + g belongs to prompt p.

    Args:
        new: key and value of the token, [B, K, H] each.
        prefix, suffix: of the P prompts and of the rows' own tokens, as `cache` has them for a layer.
        step: the column of the token in the suffix, of all rows or of each; columns before it are attended to.
        platform: as for `attention`.
        is_divided: whether heads lie over the tensor axis of the mesh in whose `shard_map` over rows this is called.

    Returns:
        What the token gets, and the suffix with the token in it.
    """
    check_platform(platform)
    if platform == "gpu" and flash_decode_gpu.is_supported(query_BNH, prefix_mask_PS, suffix[0]):
        return flash_decode_gpu.flash_decode(
            query_BNH,
            new,
            prefix=prefix,
            prefix_mask_PS=prefix_mask_PS,
            suffix=suffix,
            step=step,
            is_divided=is_divided,
        )
    suffix_key_BKHT = _update_cache(suffix[0], new[0], step, axis=3)
    suffix_value_BKTH = _update_cache(suffix[1], new[1], step, axis=2)
    prefix_key_PKHS, prefix_value_PKSH = prefix
    num_prompts, num_kv_heads, head_dim, _ = prefix_key_PKHS.shape
    num_rows, _, _, length = suffix_key_BKHT.shape
    query_BNH = query_BNH * head_dim**-0.5
    is_past_BT = jnp.arange(length)[None] <= jnp.reshape(step, (-1, 1))

    query_PGKQH = query_BNH.reshape(num_prompts, num_rows // num_prompts, num_kv_heads, -1, head_dim)
    score_PKGQS = jnp.einsum("pgkqh,pkhs->pkgqs", query_PGKQH, prefix_key_PKHS, preferred_element_type=jnp.float32)
    weight_PKGQS, top_PKGQ, total_PKGQ = _unnormalized_softmax(score_PKGQS, prefix_mask_PS[:, None, None, None])
    prefix_PKGQH = jnp.einsum("pkgqs,pksh->pkgqh", weight_PKGQS.astype(query_BNH.dtype), prefix_value_PKSH)

    query_BKQH = query_BNH.reshape(num_rows, num_kv_heads, -1, head_dim)
    score_BKQT = jnp.einsum("bkqh,bkht->bkqt", query_BKQH, suffix_key_BKHT, preferred_element_type=jnp.float32)
    weight_BKQT, top_BKQ, total_BKQ = _unnormalized_softmax(score_BKQT, is_past_BT[:, None, None])
    suffix_BKQH = jnp.einsum("bkqt,bkth->bkqh", weight_BKQT.astype(query_BNH.dtype), suffix_value_BKTH)

    def rows(array_PKGQ: Float[Array, "P K G Q *H"]) -> Float[Array, "B K Q *H"]:
        return jnp.swapaxes(array_PKGQ, 1, 2).reshape(*total_BKQ.shape, *array_PKGQ.shape[4:])

    prefix_part, suffix_part = _merge_weights(rows(top_PKGQ), rows(total_PKGQ), top_BKQ, total_BKQ)
    output_BKQH = rows(prefix_PKGQH) * prefix_part[..., None] + suffix_BKQH * suffix_part[..., None]
    output_BNH = output_BKQH.reshape(query_BNH.shape).astype(query_BNH.dtype)
    return output_BNH, (suffix_key_BKHT, suffix_value_BKTH)


def _update_cache(
    cache: Float[Array, "B K *T"], new_BKH: Float[Array, "B K H"], step: Int[Array, ""] | Int[Array, " B"], *, axis: int
) -> Float[Array, "B K *T"]:
    """The cache with a column replaced, the same one of all rows or one of each; `axis` counts the columns."""
    if jnp.ndim(step) == 0:
        return jax.lax.dynamic_update_slice_in_dim(cache, jnp.expand_dims(new_BKH, axis), step, axis)
    row_B = jnp.arange(len(cache))
    at = (row_B, slice(None), step) if axis == 2 else (row_B, slice(None), slice(None), step)
    return cache.at[at].set(new_BKH)


def _unnormalized_softmax(score: Float[Array, "*rows S"], is_visible: Bool[Array, "*rows S"]):
    """exp(score - top) where visible and 0 elsewhere, with the largest visible score `top` and their sum, per row."""
    score = jnp.where(is_visible, score, MASKED_SCORE)
    top = jnp.max(score, axis=-1, keepdims=True)
    weight = jnp.where(is_visible, jnp.exp(score - top), 0.0)
    return weight, top[..., 0], jnp.sum(weight, axis=-1)


def _merge_weights(first_top: Array, first_total: Array, second_top: Array, second_total: Array) -> tuple[Array, Array]:
    """What to multiply two unnormalised attention outputs with, so that their sum is one softmax over both parts."""
    top = jnp.maximum(first_top, second_top)
    first, second = jnp.exp(first_top - top), jnp.exp(second_top - top)
    total = first * first_total + second * second_total
    return first / total, second / total
