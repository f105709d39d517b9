"""A chunk at a time gives what the whole gives, of pictures and prompts on any side of a chunk's edge."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small import CONFIG, DEFINITION, IMAGE_TOKEN, make_params

from r1vl_jax.arrays import PromptBatch
from r1vl_jax.data.prompts import EncodedPrompt, batch
from r1vl_jax.models.qwen2_5_vl.config import VisionConfig
from r1vl_jax.models.qwen2_vl import chunked
from r1vl_jax.models.qwen2_vl.model import Definition

WINDOWED = VisionConfig(
    depth=3, embed_dim=16, num_heads=2, intermediate_size=24, window_size=112, fullatt_block_indexes=(1,)
)
DEFINITIONS = {
    "qwen2_vl": DEFINITION,
    "qwen2_5_vl": Definition(dataclasses.replace(CONFIG, vision=WINDOWED)),
}
# Sides of the pictures of each prompt in patches, and tokens of text: below, at and above a chunk's size.
PROMPTS = [([(2, 4), (18, 14), (4, 4)], 200), ([], 9), ([(30, 34)], 60), ([(16, 16)], 64)]
PROMPT_LENGTH, NUM_PATCHES = 512, 2048


@functools.cache
def prompts() -> PromptBatch:
    rng = np.random.default_rng(0)
    encoded = []
    for sides, num_text in PROMPTS:
        pictures = [np.r_[np.full(height * width // 4, IMAGE_TOKEN), 9] for height, width in sides]
        token_S = np.concatenate([*pictures, rng.integers(8, 40, num_text)]).astype(np.int32)
        grids = [(1, height, width) for height, width in sides]
        images = tuple((rng.normal(size=(h * w, 1176)).astype(np.float32), (1, h, w)) for _, h, w in grids)
        encoded.append(EncodedPrompt(token_S, (token_S == IMAGE_TOKEN).astype(np.int32), images))
    return batch(encoded, prompt_bucket=PROMPT_LENGTH, patch_bucket=NUM_PATCHES)


@functools.cache
def programs(definition: Definition):
    """Two programs (parameters, prompts) -> features, hidden states at the last column, cache: whole, and by chunks."""

    def whole(params, prompts):
        model = definition.bind(params)
        feature_MD = model.image_features(prompts.vision)
        hidden_PSD, cache = model.prefill(prompts, feature_MD)
        return feature_MD, hidden_PSD[:, -1], cache

    def by_chunks(params, prompts):
        model = definition.bind(params)
        feature_MD = chunked.image_features(model, prompts.vision)
        return feature_MD, *chunked.prefill(model, prompts, feature_MD)

    return jax.jit(whole), jax.jit(by_chunks)


@pytest.mark.parametrize("architecture", DEFINITIONS)
def test_the_same_numbers(architecture: str):
    definition = DEFINITIONS[architecture]
    whole, by_chunks = programs(definition)
    params = make_params(definition=definition)
    feature, hidden, cache = whole(params, prompts())
    feature_chunked, hidden_chunked, cache_chunked = by_chunks(params, prompts())
    is_real_M = prompts().vision.segment_ZM[0, ::4] > 0
    assert is_real_M.sum() > chunked.PATCHES_PER_CHUNK
    np.testing.assert_allclose(feature_chunked[is_real_M], feature[is_real_M], rtol=0, atol=2e-5)
    np.testing.assert_allclose(hidden_chunked, hidden, rtol=0, atol=2e-5)
    row, column = np.nonzero(prompts().mask_PS)
    for key, expected in zip(cache_chunked.key_PKHS, cache.key_PKHS, strict=True):
        np.testing.assert_allclose(key[row, :, :, column], expected[row, :, :, column], rtol=0, atol=2e-5)
    for value, expected in zip(cache_chunked.value_PKSH, cache.value_PKSH, strict=True):
        np.testing.assert_allclose(value[row, :, column], expected[row, :, column], rtol=0, atol=2e-5)


def test_chunks_of_padding_are_not_computed():
    """They stay as they were, zeros, also where what stands in them would be NaN."""
    vision, size = prompts().vision, chunked.PATCHES_PER_CHUNK
    num_computed = -(-int((vision.segment_ZM > 0).sum()) // size) * size
    patch_ZMC = vision.patch_ZMC.copy()
    patch_ZMC[:, num_computed:] = np.nan
    poisoned = dataclasses.replace(prompts(), vision=dataclasses.replace(vision, patch_ZMC=patch_ZMC))
    feature_MD, hidden_PD, _ = programs(DEFINITION)[1](make_params(), poisoned)
    assert num_computed < vision.patch_ZMC.shape[1]
    assert not feature_MD[num_computed // 4 :].any()
    assert jnp.isfinite(hidden_PD).all()


def test_tokens_before_the_longest_prompts_chunk_are_not_computed():
    longest = int(prompts().mask_PS.sum(axis=1).max())
    first = (PROMPT_LENGTH - longest) // chunked.TOKENS_PER_CHUNK * chunked.TOKENS_PER_CHUNK
    _, _, cache = programs(DEFINITION)[1](make_params(), prompts())
    assert first > 0
    for key in cache.key_PKHS:
        assert not key[..., :first].any()
        assert key[..., first:].any()
