"""Attention over whole sequences against plain loops in NumPy, and its gradients."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1vl_jax.models.attention.attention import attention
from r1vl_jax.models.attention.shared_prefix import SharedPrefix

B, T, N, K, H = 2, 7, 4, 2, 3
# Two packed segments with padding in between; then padding on the left.
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
    """With keys and values of large mean, as a projection with a bias makes them: rounding errors must cancel."""
    query, key, value = (_random(2, 64, heads, 64, seed=heads + 7 * n) for n, heads in enumerate((4, 2, 2)))
    inputs = [jnp.asarray(each, jnp.bfloat16) for each in (query, key + 4.0, value + 2.0)]
    weight, segment = _random(2, 64, 4, 64, seed=4), np.ones((2, 64), int)

    def loss(*inputs):
        return jnp.sum(weight * _attention(*inputs, segment=segment).astype(jnp.float32))

    in_bfloat16 = jax.grad(loss, argnums=(0, 1, 2))(*inputs)
    in_float32 = jax.grad(loss, argnums=(0, 1, 2))(*(each.astype(jnp.float32) for each in inputs))
    for gradient, expected in zip(in_bfloat16, in_float32, strict=True):
        error = jnp.linalg.norm(gradient.astype(jnp.float32) - expected) / jnp.linalg.norm(expected)
        assert error < 0.01


def test_chunked_attention_has_the_same_gradients():
    def loss(chunk_size):
        return lambda *inputs: jnp.sum(_attention(*inputs, chunk_size=chunk_size) ** 2)

    whole, chunked = (jax.grad(loss(size), argnums=(0, 1, 2))(QUERY, KEY, VALUE) for size in (512, 3))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole, chunked)


def test_chunked_attention_never_materialises_all_scores():
    """At 4,096 positions all scores would take 512 MiB; those of a chunk of 512 take an eighth."""
    shape = jax.ShapeDtypeStruct((1, 4096, 8, 16), jnp.float32)
    segment = jax.ShapeDtypeStruct((1, 4096), jnp.int32)

    def loss(query, key, value, segment):
        return jnp.sum(_attention(query, key, value, segment=segment))

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(shape, shape, shape, segment).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 400 * 2**20


@pytest.mark.parametrize("chunk_size", [512, 2])
def test_completions_with_a_shared_prefix_equal_separate_rows(chunk_size: int):
    """Outputs and gradients; the prefix is padded on the left, completions on the right."""
    num_completions, length = 3, 5
    shared_prefix = SharedPrefix(num_completions, length)
    columns = 4 + num_completions * length
    segment_BT = np.ones((B, columns), int)
    segment_BT[0, :2] = segment_BT[1, -2:] = segment_BT[1, 8] = 0
    inputs = [_random(B, columns, heads, H, seed=heads + 7 * n) for n, heads in enumerate((N, K, K))]
    weight = _random(B, columns, N, H, seed=4)

    def packed(*inputs):
        return _attention(*inputs, segment=segment_BT, shared_prefix=shared_prefix, chunk_size=chunk_size)

    def separate(*inputs):
        rows = [[*range(4), *range(4 + n * length, 4 + (n + 1) * length)] for n in range(num_completions)]
        outputs = [_attention(*(part[:, row] for part in inputs), segment=segment_BT[:, row]) for row in rows]
        return jnp.concatenate([outputs[0][:, :4], *(output[:, 4:] for output in outputs)], axis=1)

    def gradients_and_output(attend):
        def loss(*inputs):
            output = attend(*inputs)
            return jnp.sum(weight * output), output

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*inputs)

    actual, expected = gradients_and_output(packed), gradients_and_output(separate)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), actual, expected)


def test_scores_are_neither_transposed_nor_masked_by_a_boolean_of_their_size():
    """In a scan over layers, compiled for CPU, where either took longer than the matmuls."""
    rows, length, heads, kv_heads, head_dim, layers = 2, 64, 4, 2, 32, 3

    def loss(query_LBTNH, key, value, segment):
        def layer(x, query):
            return x + _attention(query, key, value, segment=segment), None

        return jnp.sum(jax.lax.scan(jax.checkpoint(layer), jnp.zeros(query_LBTNH.shape[1:]), query_LBTNH)[0] ** 2)

    query, key = (
        jax.ShapeDtypeStruct((*stack, rows, length, n, head_dim), jnp.float32)
        for stack, n in (((layers,), heads), ((), kv_heads))
    )
    segment = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    text = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(query, key, key, segment).compile().as_text()
    num_scores = rows * heads * length * length
    score_sized = [
        (name, dtype)
        for name, dtype, shape in re.findall(r"([\w.\-]+) = (\w+)\[([\d,]+)\]", text)
        if math.prod(map(int, shape.split(","))) >= num_scores
    ]
    assert score_sized
    assert not [(name, dtype) for name, dtype in score_sized if dtype == "pred" or "copy" in name]


def test_large_scores_do_not_overflow():
    assert np.isfinite(_attention(1e4 * QUERY, KEY, VALUE)).all()


def test_an_unknown_platform_is_an_error():
    with pytest.raises(ValueError, match="platform: expected 'cpu', 'gpu' or 'tpu', got 'cuda'"):
        attention(QUERY, KEY, VALUE, segment_BT=SEGMENT_BT, is_causal=True, platform="cuda")
