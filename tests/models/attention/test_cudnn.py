"""What is given to cuDNN in place of a mask: the same attention, shown with JAX's own, which runs on a CPU too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1vl_jax.models.attention.attention import attention
from r1vl_jax.models.attention.cudnn import cudnn_attention, is_supported
from r1vl_jax.models.attention.shared_prefix import SharedPrefix

NO_GAPS = [[1] * 24, [1] * 24]
GAPS = [[0] * 3 + [1] * 21, [1] * 10 + [0] + [1] * 11 + [0] * 2]
PICTURES = [[0] * 3 + [1] * 9 + [2] * 12, [7] * 5 + [2**24 - 1] * 3 + [2**23] * 14 + [0] * 2]


def _inputs(num_heads: int, num_kv_heads: int, width: int) -> list[np.ndarray]:
    """Queries, keys, values, and what the output is multiplied with."""
    rng = np.random.default_rng(0)
    heads = (num_heads, num_kv_heads, num_kv_heads, num_heads)
    return [rng.standard_normal((2, 24, number, width), np.float32) for number in heads]


@pytest.mark.parametrize(
    ("segment", "heads", "width", "is_causal", "branches"),
    [
        (NO_GAPS, (4, 2), 16, True, None),
        (GAPS, (4, 2), 16, True, None),
        (GAPS, (4, 2), 16, True, SharedPrefix(3, 5)),
        (GAPS, (6, 1), 8, True, SharedPrefix(1, 20)),
        (NO_GAPS, (4, 4), 80, False, None),
        (PICTURES, (4, 4), 80, False, None),
    ],
)
def test_output_and_gradients_are_those_of_attention(segment, heads, width, is_causal, branches):
    *inputs, weight = _inputs(*heads, width)
    segment_BT = np.array(segment, np.int32)

    def of(attend):
        output = attend(*inputs, segment_BT=segment_BT, is_causal=is_causal, branches=branches)
        gradients = jax.grad(
            lambda *inputs: jnp.sum(
                weight * attend(*inputs, segment_BT=segment_BT, is_causal=is_causal, branches=branches)
            ),
            argnums=(0, 1, 2),
        )(*inputs)
        return output, *gradients

    expected = of(functools.partial(attention, platform="cpu"))
    actual = of(functools.partial(cudnn_attention, implementation="xla"))
    for each, wanted in zip(actual, expected, strict=True):
        np.testing.assert_allclose(each, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())
    assert not np.any(np.asarray(actual[0])[segment_BT == 0])


def test_nothing_is_heard_of_another_segment():
    query, key, value, _ = _inputs(4, 4, 80)
    segment_BT = np.array(PICTURES, np.int32)

    def output(value):
        return np.asarray(
            cudnn_attention(query, key, value, segment_BT, is_causal=False, implementation="xla"), np.float32
        )

    louder = np.where((segment_BT == 2)[:, :, None, None], 1e6 * value, value)
    is_other = segment_BT != 2
    np.testing.assert_array_equal(output(louder)[is_other], output(value)[is_other])


@pytest.mark.parametrize(
    ("dtype", "width", "is_causal", "expected"),
    [
        ("bfloat16", 128, True, True),
        ("bfloat16", 104, False, True),
        ("bfloat16", 112, False, False),  # no room for segments
        ("bfloat16", 20, True, False),
        ("float32", 128, True, False),
    ],
)
def test_what_is_suited(dtype, width, is_causal, expected):
    assert is_supported(jnp.zeros((1, 2, 4, width), dtype), is_causal=is_causal) == expected
