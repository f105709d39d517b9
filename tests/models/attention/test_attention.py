"""Attention against plain loops in NumPy, its gradients, and decoding against whole sequences."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1vl_jax.models.attention.attention import attention
from r1vl_jax.models.attention.decode import decode_attention
from r1vl_jax.models.attention.shared_prefix import SharedPrefix

B, T, N, K, H = 2, 7, 4, 2, 3
# Two packed sequences and padding in the middle; then padding on the left.
SEGMENT_BT = np.array([[1, 1, 1, 0, 2, 2, 2], [0, 0, 1, 1, 1, 1, 1]])


def _random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


QUERY, KEY, VALUE = _random(B, T, N, H, seed=1), _random(B, T, K, H, seed=2), _random(B, T, K, H, seed=3)


def _attention(query, key, value, *, segment=SEGMENT_BT, is_causal=True, **settings):
    return attention(query, key, value, segment_BT=segment, is_causal=is_causal, platform="cpu", **settings)


def _oracle(*, is_causal: bool) -> np.ndarray:
    """One query at a time; query head n reads key/value head n // Q."""
    output = np.zeros((B, T, N, H), np.float32)
    for b, t, n in np.ndindex(B, T, N):
        visible = (SEGMENT_BT[b] == SEGMENT_BT[b, t]) & (SEGMENT_BT[b, t] != 0)
        if is_causal:
            visible &= np.arange(T) <= t
        if visible.any():
            score = KEY[b, visible, n // (N // K)] @ QUERY[b, t, n] / np.sqrt(H)
            output[b, t, n] = np.exp(score) / np.exp(score).sum() @ VALUE[b, visible, n // (N // K)]
    return output


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("chunk_size", [512, 3, 7])
def test_equals_plain_loops(is_causal: bool, chunk_size: int):
    actual = _attention(QUERY, KEY, VALUE, is_causal=is_causal, chunk_size=chunk_size)
    np.testing.assert_allclose(actual, _oracle(is_causal=is_causal), atol=1e-6)


def test_padding_gets_zeros_and_finite_gradients():
    weight = _random(B, T, N, H, seed=4)

    def loss(query, key, value):
        return jnp.sum(weight * _attention(query, key, value))

    gradients = jax.grad(loss, argnums=(0, 1, 2))(QUERY, KEY, VALUE)
    for gradient in gradients:
        assert np.isfinite(gradient).all()
        assert not np.any(np.asarray(gradient)[SEGMENT_BT == 0])
        assert np.all(np.any(np.asarray(gradient)[1, 3:-1], axis=(1, 2)))


def test_gradients_in_bfloat16_are_near_those_in_float32():
    """Keys and values that have much in common, as a projection with a bias makes them: errors must cancel."""
    query, key, value = (_random(2, 64, heads, 64, seed=heads + 7 * n) for n, heads in enumerate((4, 2, 2)))
    inputs = [jnp.asarray(each, jnp.bfloat16) for each in (query, key + 4.0, value + 2.0)]
    weight, segment = _random(2, 64, 4, 64, seed=4), np.ones((2, 64), int)

    def loss(*inputs):
        return jnp.sum(weight * _attention(*inputs, segment=segment).astype(jnp.float32))

    rough = jax.grad(loss, argnums=(0, 1, 2))(*inputs)
    exact = jax.grad(loss, argnums=(0, 1, 2))(*(each.astype(jnp.float32) for each in inputs))
    for gradient, wanted in zip(rough, exact, strict=True):
        error = jnp.linalg.norm(gradient.astype(jnp.float32) - wanted) / jnp.linalg.norm(wanted)
        assert error < 0.01


def test_chunks_have_the_same_gradients():
    def loss(chunk_size):
        return lambda *inputs: jnp.sum(_attention(*inputs, chunk_size=chunk_size) ** 2)

    whole, chunked = (jax.grad(loss(size), argnums=(0, 1, 2))(QUERY, KEY, VALUE) for size in (512, 3))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole, chunked)


def test_chunks_never_hold_all_scores():
    """At 4,096 positions whole scores would take 512 MiB; a chunk of 512 takes an eighth."""
    shape = jax.ShapeDtypeStruct((1, 4096, 8, 16), jnp.float32)
    segment = jax.ShapeDtypeStruct((1, 4096), jnp.int32)

    def loss(query, key, value, segment):
        return jnp.sum(_attention(query, key, value, segment=segment))

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(shape, shape, shape, segment).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 400 * 2**20


@pytest.mark.parametrize("chunk_size", [512, 2])
def test_branches_are_rows_of_their_own_behind_the_same_stem(chunk_size: int):
    """Values and gradients; the stem is padded on the left, branches on the right."""
    number, length = 3, 5
    branches = SharedPrefix(number, length)
    columns = 4 + number * length
    segment_BT = np.ones((B, columns), int)
    segment_BT[0, :2] = segment_BT[1, -2:] = segment_BT[1, 8] = 0
    inputs = [_random(B, columns, heads, H, seed=heads + 7 * n) for n, heads in enumerate((N, K, K))]
    weight = _random(B, columns, N, H, seed=4)

    def together(*inputs):
        return _attention(*inputs, segment=segment_BT, branches=branches, chunk_size=chunk_size)

    def apart(*inputs):
        rows = [[*range(4), *range(4 + n * length, 4 + (n + 1) * length)] for n in range(number)]
        outputs = [_attention(*(part[:, row] for part in inputs), segment=segment_BT[:, row]) for row in rows]
        return jnp.concatenate([outputs[0][:, :4], *(output[:, 4:] for output in outputs)], axis=1)

    def of(attend):
        def loss(*inputs):
            output = attend(*inputs)
            return jnp.sum(weight * output), output

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*inputs)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), of(together), of(apart))


def test_scores_are_never_turned_around_nor_masked_by_their_own_size():
    """In a loop over layers, compiled for CPU: both took longer than the products."""
    rows, length, heads, kv_heads, width, layers = 2, 64, 4, 2, 32, 3

    def loss(query_LBTNH, key, value, segment):
        def layer(x, query):
            return x + _attention(query, key, value, segment=segment), None

        return jnp.sum(jax.lax.scan(jax.checkpoint(layer), jnp.zeros(query_LBTNH.shape[1:]), query_LBTNH)[0] ** 2)

    query, key = (
        jax.ShapeDtypeStruct((*stack, rows, length, n, width), jnp.float32)
        for stack, n in (((layers,), heads), ((), kv_heads))
    )
    segment = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    text = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(query, key, key, segment).compile().as_text()
    num_scores = rows * heads * length * length
    as_large = [
        (name, dtype)
        for name, dtype, shape in re.findall(r"([\w.\-]+) = (\w+)\[([\d,]+)\]", text)
        if math.prod(map(int, shape.split(","))) >= num_scores
    ]
    assert as_large
    assert not [(name, dtype) for name, dtype in as_large if dtype == "pred" or "copy" in name]


def test_large_scores_do_not_overflow():
    assert np.isfinite(_attention(1e4 * QUERY, KEY, VALUE)).all()


def test_an_unknown_platform_is_refused():
    with pytest.raises(ValueError, match="platform: expected 'cpu', 'gpu' or 'tpu', got 'cuda'"):
        attention(QUERY, KEY, VALUE, segment_BT=SEGMENT_BT, is_causal=True, platform="cuda")


@pytest.mark.parametrize("step", [0, 2, 4])
def test_decoding_equals_the_last_query_of_whole_sequences(step: int):
    num_prompts, num_generations, prefix_length, suffix_length = 2, 3, 4, 5
    num_rows = num_prompts * num_generations
    prefix_mask_PS = np.array([[True] * prefix_length, [False, False, True, True]])
    prefix_key, prefix_value = _random(2, num_prompts, prefix_length, K, H, seed=5)
    suffix_key, suffix_value = _random(2, num_rows, suffix_length, K, H, seed=6)
    query_BNH = _random(num_rows, N, H, seed=7)
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


def test_rows_may_be_at_steps_of_their_own():
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
    together = jax.tree.leaves(decode(step_B))
    for row, step in enumerate(step_B):
        for actual, expected in zip(together, jax.tree.leaves(decode(step)), strict=True):
            np.testing.assert_allclose(actual[row], expected[row], atol=1e-6)
