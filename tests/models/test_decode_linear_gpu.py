"""The kernels of decoding's linear maps on GPU, computed by Pallas' interpreter: the same as plain products."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array

from r1vl_jax.models import decode_linear_gpu
from r1vl_jax.models.presets import PRESETS
from r1vl_jax.models.qwen2_vl.decode_gpu import is_supported
from r1vl_jax.models.qwen2_vl.rope import RopeAngles, apply_rope

ROUNDED = 3e-3  # of the norm: what bfloat16 leaves of a result


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch):
    monkeypatch.setattr(decode_linear_gpu, "_call", functools.partial(decode_linear_gpu._call, interpret=True))


def _normal(number: int, *shape: int, scale: float = 1.0) -> Array:
    return (scale * jax.random.normal(jax.random.key(number), shape)).astype(jnp.bfloat16)


def _error(actual: Array, expected: Array) -> float:
    assert actual.shape == expected.shape
    return float(jnp.linalg.norm(actual.astype(jnp.float32) - expected) / jnp.linalg.norm(expected))


def _wide(*arrays: Array) -> tuple[Array, ...]:
    return tuple(array.astype(jnp.float32) for array in arrays)


ROWS = pytest.mark.parametrize("num_rows", [1, 16, 24, 64])


@ROWS
@pytest.mark.parametrize("dim", [64, 768, 832, 1536])
def test_products(num_rows, dim):
    """In parts: all of the matrix, and none of it twice."""
    x, kernel = _normal(0, num_rows, dim), _normal(1, dim, 320, scale=dim**-0.5)
    wide_x, wide_kernel = _wide(x, kernel)
    parts = decode_linear_gpu.matmul_split_k(x, kernel)
    assert parts.dtype == jnp.float32
    assert len(parts) == {64: 1, 768: 2, 832: 1, 1536: 4}[dim]
    assert _error(jnp.sum(parts, axis=0), wide_x @ wide_kernel) < 1e-6


@ROWS
def test_gated_products(num_rows):
    x, gate, up = _normal(0, num_rows, 768), _normal(1, 768, 192, scale=0.1), _normal(2, 768, 192, scale=0.1)
    wide_x, wide_gate, wide_up = _wide(x, gate, up)
    output = decode_linear_gpu.swiglu(x, gate, up)
    assert output.dtype == x.dtype
    assert _error(output, jax.nn.silu(wide_x @ wide_gate) * (wide_x @ wide_up)) < ROUNDED


@pytest.mark.parametrize("dim", [64, 320, 1536])
def test_sums_and_their_norms(dim):
    x, scale, added = (
        _normal(0, 5, dim),
        1 + _normal(1, dim, scale=0.1),
        jax.random.normal(jax.random.key(2), (3, 5, dim)),
    )
    total, normed = decode_linear_gpu.add_and_norm(x, added, scale, epsilon=0.5)
    wide_x, wide_scale = _wide(x, scale)
    expected = wide_x + jnp.sum(added, axis=0)
    mean_square = jnp.mean(expected**2, axis=1, keepdims=True)
    assert _error(total, expected) < ROUNDED
    assert _error(normed, expected / jnp.sqrt(mean_square + 0.5) * wide_scale[None]) < ROUNDED


@pytest.mark.parametrize(("num_heads", "num_kv_heads", "width"), [(6, 2, 64), (1, 1, 32)])
def test_heads_are_told_apart_and_rotated(num_heads, num_kv_heads, width):
    every = num_heads + 2 * num_kv_heads
    projected = jax.random.normal(jax.random.key(0), (3, 5, every * width))
    bias, angle = _normal(1, every * width), jax.random.normal(jax.random.key(2), (5, width // 2))
    actual = decode_linear_gpu.qkv_heads_with_rope(
        projected, bias, jnp.cos(angle), jnp.sin(angle), num_kv_heads=num_kv_heads
    )
    head = (jnp.sum(projected, axis=0) + bias.astype(jnp.float32)[None]).reshape(5, 1, every, width)
    turned = apply_rope(head, RopeAngles(jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]))[:, 0]
    key, value = turned[:, num_heads : num_heads + num_kv_heads], head[:, 0, -num_kv_heads:]
    for each, expected in zip(actual, (turned[:, :num_heads], key, value), strict=True):
        assert _error(each, expected) < ROUNDED


@pytest.mark.parametrize(
    ("preset", "dtype", "num_rows", "expected"),
    [
        ("7b", "bfloat16", 2, True),
        ("tiny", "float16", 6, True),
        ("7b", "float32", 16, False),
        ("2b", "bfloat16", 64, True),
        ("2b", "bfloat16", 66, False),
    ],
)
def test_what_is_suited(preset, dtype, num_rows, expected):
    assert is_supported(PRESETS[preset], dtype, num_rows=num_rows) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"hidden_size": 1568, "num_attention_heads": 14, "num_key_value_heads": 2}, False),
        ({"intermediate_size": 8992}, False),
        ({"num_attention_heads": 48, "num_key_value_heads": 1}, False),  # keys of 32 columns, half a strip
        ({"num_attention_heads": 96, "num_key_value_heads": 4}, False),  # heads of 16
    ],
)
def test_which_sizes_are_suited(change, expected):
    sizes = dataclasses.replace(PRESETS["2b"], **change)
    assert is_supported(sizes, "bfloat16", num_rows=4) == expected


@pytest.mark.parametrize(
    ("dims", "expected"), [((1536, 2048), 4), ((8960, 1536), 10), ((3584, 4608), 2), ((18944, 3584), 4)]
)
def test_in_how_many_parts_matrices_are_multiplied(dims, expected):
    """Those of 2B and 7B: more than a processor's share of programs, each with enough to read."""
    shapes = (jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((64, dims[0]), dims))
    assert len(jax.eval_shape(decode_linear_gpu.matmul_split_k, *shapes)) == expected


def test_a_jax_without_its_compiler_is_seen(monkeypatch):
    monkeypatch.setattr(decode_linear_gpu, "triton", None)
    assert not is_supported(PRESETS["2b"], "bfloat16", num_rows=4)
