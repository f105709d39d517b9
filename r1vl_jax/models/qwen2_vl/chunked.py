"""Vision tower and prefill a chunk at a time: one program for pictures and prompts of any size up to its arrays.

Arrays are as long as the longest that they are compiled for; loops run over the chunks that hold something, and keys
over the chunks that a query sees. So padding costs memory, but no more than a chunk of computing. For generation only:
loops of a length that is known when they run have no gradient.

    patches  | chunk 0: image 0 | image 0, image 1 | image 1 ..  |  not computed  |
    tokens                         |  not computed  | ..  prompt | prompt | prompt |
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from r1vl_jax.arrays import PackedVision, PromptBatch
from r1vl_jax.models.attention.attention import MASKED_SCORE
from r1vl_jax.models.qwen2_vl.cache import PrefixCache
from r1vl_jax.models.qwen2_vl.model import Qwen2VL
from r1vl_jax.models.qwen2_vl.rope import apply_rope, text_rope_angles, vision_rope_angles
from r1vl_jax.models.qwen2_vl.text import DecoderLayer
from r1vl_jax.models.qwen2_vl.vision import Vision, VisionBlock

PATCHES_PER_CHUNK, TOKENS_PER_CHUNK = 256, 128  # lengths of arrays are multiples of these


def image_features(model: Qwen2VL, vision: PackedVision) -> Float[Array, "M D"]:
    """As `Qwen2VL.image_features`, of one row of packed patches."""
    tower: Vision = model.visual
    size, num_patches = PATCHES_PER_CHUNK, jnp.sum(vision.segment_ZM > 0)
    num_chunks = -(-num_patches // size)
    angles = vision_rope_angles(vision.position_ZM2, tower.config.head_dim)
    first_1M, last_1M = (bound_M[None] for bound_M in _frame_bounds(vision.segment_ZM[0]))

    def embed(chunk: Int[Array, ""], x_ZME: Float[Array, "Z M E"]) -> Float[Array, "Z M E"]:
        return _write(x_ZME, tower.patch_embed.proj(_read(vision.patch_ZMC, chunk, size)), chunk)

    def apply(block: VisionBlock, x_ZME: Float[Array, "Z M E"], segment_ZM: Int[Array, "Z M"]):
        """A block: queries, keys and values of all chunks first, since patches attend in both directions."""

        def project(chunk: Int[Array, ""], carry: Any) -> Any:
            qkv = block.attn.qkv(block.norm1(_read(x_ZME, chunk, size)))
            query, key, value = (part.reshape(*part.shape[:2], num_heads, -1) for part in jnp.split(qkv, 3, axis=-1))
            query, key = (apply_rope(part, _read(angles, chunk, size)) for part in (query, key))
            return _write(carry[0], query, chunk), _write_cache(carry[1], key, value, chunk)

        num_heads, head_dim = tower.config.num_heads, tower.config.head_dim
        empty = (
            jnp.zeros((*x_ZME.shape[:2], num_heads, head_dim), x_ZME.dtype),
            _empty_cache(x_ZME, num_heads, head_dim),
        )
        query_ZMNH, cache = jax.lax.fori_loop(0, num_chunks, project, empty)

        def attend(chunk: Int[Array, ""], x_ZME: Float[Array, "Z M E"]) -> Float[Array, "Z M E"]:
            query_segment = _read(segment_ZM, chunk, size)

            def is_visible(keys: Int[Array, ""]) -> Bool[Array, "Z C S"]:
                key_segment = _read(segment_ZM, keys, size)
                return (query_segment[:, :, None] == key_segment[:, None]) & (query_segment[:, :, None] > 0)

            first, last = jnp.min(_read(first_1M, chunk, size)) // size, jnp.max(_read(last_1M, chunk, size)) // size
            query = _read(query_ZMNH, chunk, size)
            attended = _attend(query, cache, is_visible, size=size, first=first, last=last)
            y = _read(x_ZME, chunk, size)
            y = y + block.attn.proj(attended.reshape(y.shape))
            return _write(x_ZME, y + block.mlp(block.norm2(y)), chunk)

        return jax.lax.fori_loop(0, num_chunks, attend, x_ZME), None

    def merge(chunk: Int[Array, ""], feature_ZMD: Float[Array, "Z M D"]) -> Float[Array, "Z M D"]:
        return _write(feature_ZMD, tower.merger(_read(x_ZME, chunk, size)), chunk)

    shape, dtype = vision.segment_ZM.shape, model.definition.dtype
    x_ZME = jax.lax.fori_loop(0, num_chunks, embed, jnp.zeros((*shape, tower.config.embed_dim), dtype))
    x_ZME, _ = model.scan(tower.blocks, apply, x_ZME, tower.segment_ids(vision))
    hidden_size = model.definition.config.hidden_size
    features = jnp.zeros((shape[0], shape[1] // tower.config.merge_length, hidden_size), dtype)
    return jax.lax.fori_loop(0, num_chunks, merge, features).reshape(-1, hidden_size)


def prefill(
    model: Qwen2VL,
    prompts: PromptBatch,
    feature_MD: Float[Array, "M D"],
    known: PrefixCache | None = None,
    first_column: Int[Array, ""] | int = 0,
) -> tuple[Float[Array, "P D"], PrefixCache]:
    """As `Qwen2VL.prefill`, with the hidden states of the last column alone.

    Args:
        known: keys and values of the columns before `first_column`, which are then not computed.
    """
    config, size, mask_PS = model.definition.config, TOKENS_PER_CHUNK, prompts.mask_PS
    num_chunks = mask_PS.shape[1] // size
    first_chunk = jnp.argmax(jnp.any(mask_PS, axis=0)) // size  # prompts are padded on the left
    first_unknown = jnp.maximum(first_chunk, first_column // size)
    angles = text_rope_angles(prompts.position_3PS, config)

    def apply(layer: DecoderLayer, x_PSD: Float[Array, "P S D"], *cache: Float[Array, "P K ..."]):
        def advance(chunk: Int[Array, ""], carry: Any) -> Any:
            x_PSD, cache = carry
            x_PCD = _read(x_PSD, chunk, size)
            query, (key, value) = layer.self_attn.project(layer.input_layernorm(x_PCD), _read(angles, chunk, size))
            cache = _write_cache(cache, key, value, chunk)

            def is_visible(keys: Int[Array, ""]) -> Bool[Array, "P C S"]:
                column_C = jnp.arange(size)
                is_earlier_CS = (chunk * size + column_C)[:, None] >= (keys * size + column_C)[None]
                return is_earlier_CS[None] & _read(mask_PS, keys, size)[:, None]

            attended = _attend(query, cache, is_visible, size=size, first=first_chunk, last=chunk)
            return _write(x_PSD, layer.add_residuals(x_PCD, attended), chunk), cache

        cache = cache or _empty_cache(x_PSD, config.num_key_value_heads, config.head_dim)
        return jax.lax.fori_loop(first_unknown, num_chunks, advance, (x_PSD, cache))

    known_L = () if known is None else (jnp.stack(known.key_PKHS), jnp.stack(known.value_PKSH))
    x_PSD = model.embed(prompts.token_PS, prompts.feature_index_PS, feature_MD)
    x_PSD, (key_LPKHS, value_LPKSH) = model.scan(model.text.layers, apply, x_PSD, *known_L)
    return model.text.norm(x_PSD[:, -1]), PrefixCache(list(key_LPKHS), list(value_LPKSH), mask_PS)


def _attend(
    query_BCNH: Float[Array, "B C N H"],
    cache: tuple[Float[Array, "B K H S"], Float[Array, "B K S H"]],
    is_visible: Callable[[Int[Array, ""]], Bool[Array, "B C S"]],
    *,
    size: int,
    first: Int[Array, ""],
    last: Int[Array, ""],
) -> Float[Array, "B C N H"]:
    """Attention of a chunk of queries to the chunks of keys from `first` to `last`, with a running softmax.

    Args:
        is_visible: chunk of keys -> which of them each query attends to; every real query to at least one.

    Source:
        Milakov and Gimelshein, Online normalizer calculation for softmax, 2018, https://arxiv.org/abs/1805.02867.
    """
    key_BKHS, value_BKSH = cache
    num_rows, length, _, head_dim = query_BCNH.shape
    query_BKQCH = query_BCNH.reshape(num_rows, length, key_BKHS.shape[1], -1, head_dim).transpose(0, 2, 3, 1, 4)
    shape = query_BKQCH.shape[:-1]
    query_BKRH = query_BKQCH.reshape(*shape[:2], -1, head_dim)

    def step(keys: Int[Array, ""], carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        max_BKQC, sum_BKQC, output_BKQCH = carry
        key_BKHC = jax.lax.dynamic_slice_in_dim(key_BKHS, keys * size, size, axis=3)
        value_BKCH = jax.lax.dynamic_slice_in_dim(value_BKSH, keys * size, size, axis=2)
        score_BKRC = jnp.einsum("bkrh,bkhc->bkrc", query_BKRH, key_BKHC, preferred_element_type=jnp.float32)
        bias_BCS = jnp.where(is_visible(keys), 0.0, MASKED_SCORE)
        score = head_dim**-0.5 * score_BKRC.reshape(*shape, size) + bias_BCS[:, None, None]
        new_max = jnp.maximum(max_BKQC, jnp.max(score, axis=-1))
        weight, rescale = jnp.exp(score - new_max[..., None]), jnp.exp(max_BKQC - new_max)
        added = jnp.einsum("bkrc,bkch->bkrh", weight.reshape(score_BKRC.shape).astype(value_BKCH.dtype), value_BKCH)
        output = output_BKQCH * rescale[..., None] + added.reshape(output_BKQCH.shape).astype(jnp.float32)
        return new_max, sum_BKQC * rescale + jnp.sum(weight, axis=-1), output

    # A first chunk without a visible key adds weights of 1, which the next rescales to 0.
    initial = jnp.full(shape, MASKED_SCORE), jnp.zeros(shape), jnp.zeros(query_BKQCH.shape)
    _, sum_BKQC, output_BKQCH = jax.lax.fori_loop(first, last + 1, step, initial)
    output_BKQCH = output_BKQCH / sum_BKQC[..., None]
    return output_BKQCH.transpose(0, 3, 1, 2, 4).reshape(query_BCNH.shape).astype(query_BCNH.dtype)


def _frame_bounds(segment_M: Int[Array, " M"]) -> tuple[Int[Array, " M"], Int[Array, " M"]]:
    """The first and the last patch of each patch's frame; a frame's patches stand together, padding behind them."""
    column_M = jnp.arange(len(segment_M))
    is_first_M = jnp.r_[True, segment_M[1:] != segment_M[:-1]]
    is_last_M = jnp.r_[is_first_M[1:], True]
    first_M = jax.lax.cummax(jnp.where(is_first_M, column_M, 0))
    last_M = jax.lax.cummin(jnp.where(is_last_M, column_M, len(segment_M)), reverse=True)
    # Padding sees itself alone.
    return jnp.where(segment_M > 0, first_M, column_M), jnp.where(segment_M > 0, last_M, column_M)


def _empty_cache(x_BSD: Float[Array, "B S D"], num_heads: int, head_dim: int) -> tuple[Array, Array]:
    rows, length = x_BSD.shape[:2]
    return (
        jnp.zeros((rows, num_heads, head_dim, length), x_BSD.dtype),
        jnp.zeros((rows, num_heads, length, head_dim), x_BSD.dtype),
    )


def _write_cache(cache: tuple[Array, Array], key_BCKH: Array, value_BCKH: Array, chunk: Int[Array, ""]):
    start = chunk * key_BCKH.shape[1]
    return (
        jax.lax.dynamic_update_slice_in_dim(cache[0], key_BCKH.transpose(0, 2, 3, 1), start, axis=3),
        jax.lax.dynamic_update_slice_in_dim(cache[1], value_BCKH.transpose(0, 2, 1, 3), start, axis=2),
    )


def _read(arrays: Any, chunk: Int[Array, ""], size: int) -> Any:
    """A chunk of the second axis of arrays."""
    return jax.tree.map(lambda array: jax.lax.dynamic_slice_in_dim(array, chunk * size, size, axis=1), arrays)


def _write(array: Array, part: Array, chunk: Int[Array, ""]) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(array, part, chunk * part.shape[1], axis=1)
