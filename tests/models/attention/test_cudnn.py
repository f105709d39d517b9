"""cuDNN's attention without a mask array, against plain attention; computed by JAX's XLA implementation on a CPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1vl_jax.models.attention.attention import attention
from r1vl_jax.models.attention.cudnn import cudnn_attention, is_supported
from r1vl_jax.models.attention.shared_prefix import SharedPrefix

NO_PADDING = [[1] * 24, [1] * 24]
PADDED = [[0] * 3 + [1] * 21, [1] * 10 + [0] + [1] * 11 + [0] * 2]
IMAGES = [[0] * 3 + [1] * 9 + [2] * 12, [7] * 5 + [2**24 - 1] * 3 + [2**23] * 14 + [0] * 2]


def _inputs(num_heads: int, num_kv_heads: int, head_dim: int) -> list[np.ndarray]:
    """Queries, keys, values, and the cotangent of the output."""
    rng = np.random.default_rng(0)
    heads = (num_heads, num_kv_heads, num_kv_heads, num_heads)
    return [rng.standard_normal((2, 24, number, head_dim), np.float32) for number in heads]


@pytest.mark.parametrize(
    ("segment", "heads", "head_dim", "is_causal", "shared_prefix"),
    [
        (NO_PADDING, (4, 2), 16, True, None),
        (PADDED, (4, 2), 16, True, None),
        (PADDED, (4, 2), 16, True, SharedPrefix(3, 5)),
        (PADDED, (6, 1), 8, True, SharedPrefix(1, 20)),
        (NO_PADDING, (4, 4), 80, False, None),
        (IMAGES, (4, 4), 80, False, None),
    ],
)
def test_output_and_gradients_equal_plain_attention(segment, heads, head_dim, is_causal, shared_prefix):
    *inputs, cotangent = _inputs(*heads, head_dim)
    segment_BT = np.array(segment, np.int32)

    def output_and_gradients(attend):
        output = attend(*inputs, segment_BT=segment_BT, is_causal=is_causal, shared_prefix=shared_prefix)
        gradients = jax.grad(
            lambda *inputs: jnp.sum(
                cotangent * attend(*inputs, segment_BT=segment_BT, is_causal=is_causal, shared_prefix=shared_prefix)
            ),
            argnums=(0, 1, 2),
        )(*inputs)
        return output, *gradients

    expected = output_and_gradients(functools.partial(attention, platform="cpu"))
    actual = output_and_gradients(functools.partial(cudnn_attention, implementation="xla"))
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max())
    assert not np.any(np.asarray(actual[0])[segment_BT == 0])


def test_segments_do_not_leak_into_each_other():
    query, key, value, _ = _inputs(4, 4, 80)
    segment_BT = np.array(IMAGES, np.int32)

    def output(value):
        return np.asarray(
            cudnn_attention(query, key, value, segment_BT, is_causal=False, implementation="xla"), np.float32
        )

    changed = np.where((segment_BT == 2)[:, :, None, None], 1e6 * value, value)
    is_other = segment_BT != 2
    np.testing.assert_array_equal(output(changed)[is_other], output(value)[is_other])


@pytest.mark.parametrize(
    ("dtype", "head_dim", "is_causal", "expected"),
    [
        ("bfloat16", 128, True, True),
        ("bfloat16", 104, False, True),
        ("bfloat16", 112, False, False),  # no room for the bits of segment ids
        ("bfloat16", 20, True, False),
        ("float32", 128, True, False),
    ],
)
def test_is_supported(dtype, head_dim, is_causal, expected):
    assert is_supported(jnp.zeros((1, 2, 4, head_dim), dtype), is_causal=is_causal) == expected
