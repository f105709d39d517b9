"""Decoding against attention over whole sequences: prefix and suffix caches, merged by their log-sum-exp."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1vl_jax.models.attention.attention import attention
from r1vl_jax.models.attention.decode import decode_attention

N, K, H = 4, 2, 3


def _random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("step", [0, 2, 4])
def test_decode_equals_the_last_query_of_whole_sequences(step: int):
    num_prompts, num_generations, prefix_length, suffix_length = 2, 3, 4, 5
    num_rows = num_prompts * num_generations
    prefix_mask_PS = np.array([[True] * prefix_length, [False, False, True, True]])
    prefix_key, prefix_value = _random(2, num_prompts, prefix_length, K, H, seed=5)
    suffix_key, suffix_value = _random(2, num_rows, suffix_length, K, H, seed=6)
    query_BNH = _random(num_rows, N, H, seed=7)
    # What the cache holds in the new token's column must be overwritten before it is read.
    stale_key, stale_value = (part.copy() for part in (suffix_key, suffix_value))
    stale_key[:, step] = stale_value[:, step] = np.nan

    actual_BNH, (written_key, written_value) = decode_attention(
        query_BNH,
        (suffix_key[:, step], suffix_value[:, step]),
        prefix=(np.moveaxis(prefix_key, 1, 3), prefix_value.swapaxes(1, 2)),
        prefix_mask_PS=prefix_mask_PS,
        suffix=(np.moveaxis(stale_key, 1, 3), stale_value.swapaxes(1, 2)),
        step=jnp.int32(step),
        platform="cpu",
    )
    np.testing.assert_array_equal(written_key, np.moveaxis(suffix_key, 1, 3))
    np.testing.assert_array_equal(written_value, suffix_value.swapaxes(1, 2))
    prompt_of_row = np.arange(num_rows) // num_generations
    written = slice(0, step + 1)
    mask_BS = np.concatenate([prefix_mask_PS[prompt_of_row], np.ones((num_rows, step + 1), bool)], axis=1)
    expected_BSNH = attention(
        np.repeat(query_BNH[:, None], mask_BS.shape[1], axis=1),
        np.concatenate([prefix_key[prompt_of_row], suffix_key[:, written]], axis=1),
        np.concatenate([prefix_value[prompt_of_row], suffix_value[:, written]], axis=1),
        segment_BT=mask_BS.astype(int),
        is_causal=True,
        platform="cpu",
    )
    np.testing.assert_allclose(actual_BNH, expected_BSNH[:, -1], atol=1e-6)


def test_rows_may_be_at_different_steps():
    num_rows, length = 6, 5
    query, new_key, new_value = (_random(num_rows, heads, H, seed=heads + n) for n, heads in enumerate((N, K, K)))
    prefix = _random(2, K, H, 4, seed=5), _random(2, K, 4, H, seed=6)
    suffix = tuple(jnp.asarray(_random(num_rows, K, *shape, seed=7)) for shape in ((H, length), (length, H)))

    def decode(step):
        return decode_attention(
            query,
            (new_key, new_value),
            prefix=prefix,
            prefix_mask_PS=np.ones((2, 4), bool),
            suffix=suffix,
            step=step,
            platform="cpu",
        )

    step_B = jnp.arange(num_rows) % length
    batched = jax.tree.leaves(decode(step_B))
    for row, step in enumerate(step_B):
        for actual, expected in zip(batched, jax.tree.leaves(decode(step)), strict=True):
            np.testing.assert_allclose(actual[row], expected[row], atol=1e-6)
