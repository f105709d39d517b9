"""Attention of one new token a row: to its prompt, shared by the samples of a prompt, and to its completion so far."""

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
    is_tensor_parallel: bool = False,
) -> tuple[Float[Array, "B N H"], KeyValue]:
    """Attention of one new token per row to its prompt and to its completion, itself included.

        row p*G + g:   | prefix cache of prompt p, one for G rows | suffix cache of the row ... new token |

    Softmax over prefix and suffix is computed in two parts, which are merged by their log-sum-exp. So the keys and
    values of a prompt are stored and read once for its G samples.

    Args:
        new: key and value of the new token, [B, K, H] each.
        prefix, suffix: one layer's key and value caches of the P prompts and of the B completions, see `cache`.
        step: the suffix column of the new token, of all rows or of each; earlier columns are attended to.
        platform: as for `attention`.
        is_tensor_parallel: whether heads are sharded over the "tensor" axis of the mesh. This function is then called
            inside a `shard_map` over rows alone.

    Returns:
        The attention output, and the suffix cache with the new token written to it.

    Source:
        Juravsky et al., Hydragen: High-Throughput LLM Inference with Shared Prefixes, 2024,
        https://arxiv.org/abs/2402.05099.
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
            is_tensor_parallel=is_tensor_parallel,
        )
    # The new token is written first, so that it is one of the keys like any other.
    suffix_key_BKHT = _update_cache(suffix[0], new[0], step, axis=3)
    suffix_value_BKTH = _update_cache(suffix[1], new[1], step, axis=2)
    prefix_key_PKHS, prefix_value_PKSH = prefix
    num_prompts, num_kv_heads, head_dim, _ = prefix_key_PKHS.shape
    num_rows, _, _, length = suffix_key_BKHT.shape
    query_BNH = query_BNH * head_dim**-0.5  # scales the scores of both parts
    is_written_BT = jnp.arange(length)[None] <= jnp.reshape(step, (-1, 1))

    # Prefix: the G samples of a prompt, times the Q query heads of a key/value head, are rows of one matmul.
    query_PGKQH = query_BNH.reshape(num_prompts, num_rows // num_prompts, num_kv_heads, -1, head_dim)
    score_PKGQS = jnp.einsum("pgkqh,pkhs->pkgqs", query_PGKQH, prefix_key_PKHS, preferred_element_type=jnp.float32)
    weight_PKGQS, max_PKGQ, sum_PKGQ = _unnormalized_softmax(score_PKGQS, prefix_mask_PS[:, None, None, None])
    prefix_PKGQH = jnp.einsum("pkgqs,pksh->pkgqh", weight_PKGQS.astype(query_BNH.dtype), prefix_value_PKSH)

    # Suffix: every row has its own keys, so only the Q heads share a matmul.
    query_BKQH = query_BNH.reshape(num_rows, num_kv_heads, -1, head_dim)
    score_BKQT = jnp.einsum("bkqh,bkht->bkqt", query_BKQH, suffix_key_BKHT, preferred_element_type=jnp.float32)
    weight_BKQT, max_BKQ, sum_BKQ = _unnormalized_softmax(score_BKQT, is_written_BT[:, None, None])
    suffix_BKQH = jnp.einsum("bkqt,bkth->bkqh", weight_BKQT.astype(query_BNH.dtype), suffix_value_BKTH)

    def to_rows(array_PKGQ: Float[Array, "P K G Q *H"]) -> Float[Array, "B K Q *H"]:
        return jnp.swapaxes(array_PKGQ, 1, 2).reshape(*sum_BKQ.shape, *array_PKGQ.shape[4:])

    # Neither part is normalised yet; the merge divides by the sum over both.
    prefix_scale, suffix_scale = _merge_scales(to_rows(max_PKGQ), to_rows(sum_PKGQ), max_BKQ, sum_BKQ)
    output_BKQH = to_rows(prefix_PKGQH) * prefix_scale[..., None] + suffix_BKQH * suffix_scale[..., None]
    output_BNH = output_BKQH.reshape(query_BNH.shape).astype(query_BNH.dtype)
    return output_BNH, (suffix_key_BKHT, suffix_value_BKTH)


def _update_cache(
    cache: Float[Array, "B K *T"], new_BKH: Float[Array, "B K H"], step: Int[Array, ""] | Int[Array, " B"], *, axis: int
) -> Float[Array, "B K *T"]:
    """The cache with one column replaced, the same of all rows or one of each; `axis` is the cache's column axis."""
    if jnp.ndim(step) == 0:
        # One column of all rows is a dynamic-update-slice, below it is a scatter; XLA does both in place in a loop.
        return jax.lax.dynamic_update_slice_in_dim(cache, jnp.expand_dims(new_BKH, axis), step, axis)
    row_B = jnp.arange(len(cache))
    at = (row_B, slice(None), step) if axis == 2 else (row_B, slice(None), slice(None), step)
    return cache.at[at].set(new_BKH)


def _unnormalized_softmax(score: Float[Array, "*rows S"], is_visible: Bool[Array, "*rows S"]):
    """exp(score - max) with 0 where masked, and of each row the max m and the sum l of the exponentials."""
    score = jnp.where(is_visible, score, MASKED_SCORE)
    max_score = jnp.max(score, axis=-1, keepdims=True)
    # Masked again after the exponential: in a row without a visible key, score - max is 0 everywhere.
    weight = jnp.where(is_visible, jnp.exp(score - max_score), 0.0)
    return weight, max_score[..., 0], jnp.sum(weight, axis=-1)


def _merge_scales(max_1: Array, sum_1: Array, max_2: Array, sum_2: Array) -> tuple[Array, Array]:
    """Log-sum-exp merge of two partial softmaxes: the factors with which a_1 o_1 + a_2 o_2 is the softmax over both.

        m = max(m_1, m_2)    l = exp(m_1 - m) l_1 + exp(m_2 - m) l_2    a_i = exp(m_i - m) / l

    Args:
        max_1, sum_1: running max m_1 and sum l_1 of the unnormalised output o_1; likewise the second.
    """
    merged_max = jnp.maximum(max_1, max_2)
    rescale_1, rescale_2 = jnp.exp(max_1 - merged_max), jnp.exp(max_2 - merged_max)
    merged_sum = rescale_1 * sum_1 + rescale_2 * sum_2
    return rescale_1 / merged_sum, rescale_2 / merged_sum
