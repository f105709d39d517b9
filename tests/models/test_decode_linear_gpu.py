"""The GPU kernels of decoding's linear layers in Pallas' interpreter, against plain matmuls, norms and RoPE."""

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

ROUNDING = 3e-3  # relative error of a result that is rounded to bfloat16


@pytest.fixture(autouse=True)
def _interpret(monkeypatch):
    monkeypatch.setattr(
        decode_linear_gpu, "_pallas_call", functools.partial(decode_linear_gpu._pallas_call, interpret=True)
    )


def _normal(number: int, *shape: int, scale: float = 1.0) -> Array:
    return (scale * jax.random.normal(jax.random.key(number), shape)).astype(jnp.bfloat16)


def _error(actual: Array, expected: Array) -> float:
    assert actual.shape == expected.shape
    return float(jnp.linalg.norm(actual.astype(jnp.float32) - expected) / jnp.linalg.norm(expected))


def _to_float32(*arrays: Array) -> tuple[Array, ...]:
    return tuple(array.astype(jnp.float32) for array in arrays)


ROWS = pytest.mark.parametrize("num_rows", [1, 16, 24, 64])


@ROWS
@pytest.mark.parametrize("dim", [64, 768, 832, 1536])
def test_matmul_split_k(num_rows, dim):
    """Its splits cover all of the matrix, and none of it twice."""
    x, kernel = _normal(0, num_rows, dim), _normal(1, dim, 320, scale=dim**-0.5)
    x32, kernel32 = _to_float32(x, kernel)
    partials = decode_linear_gpu.matmul_split_k(x, kernel)
    assert partials.dtype == jnp.float32
    assert len(partials) == {64: 1, 768: 2, 832: 1, 1536: 4}[dim]
    assert _error(jnp.sum(partials, axis=0), x32 @ kernel32) < 1e-6


@ROWS
def test_swiglu(num_rows):
    x, gate, up = _normal(0, num_rows, 768), _normal(1, 768, 192, scale=0.1), _normal(2, 768, 192, scale=0.1)
    x32, gate32, up32 = _to_float32(x, gate, up)
    output = decode_linear_gpu.swiglu(x, gate, up)
    assert output.dtype == x.dtype
    assert _error(output, jax.nn.silu(x32 @ gate32) * (x32 @ up32)) < ROUNDING


@pytest.mark.parametrize("dim", [64, 320, 1536])
def test_fused_add_rms_norm(dim):
    x, scale, residual = (
        _normal(0, 5, dim),
        1 + _normal(1, dim, scale=0.1),
        jax.random.normal(jax.random.key(2), (3, 5, dim)),
    )
    total, normed = decode_linear_gpu.fused_add_rms_norm(x, residual, scale, epsilon=0.5)
    x32, scale32 = _to_float32(x, scale)
    expected = x32 + jnp.sum(residual, axis=0)
    mean_square = jnp.mean(expected**2, axis=1, keepdims=True)
    assert _error(total, expected) < ROUNDING
    assert _error(normed, expected / jnp.sqrt(mean_square + 0.5) * scale32[None]) < ROUNDING


@pytest.mark.parametrize(("num_heads", "num_kv_heads", "head_dim"), [(6, 2, 64), (1, 1, 32)])
def test_qkv_heads_with_rope(num_heads, num_kv_heads, head_dim):
    num_all = num_heads + 2 * num_kv_heads
    qkv = jax.random.normal(jax.random.key(0), (3, 5, num_all * head_dim))
    bias, angle = _normal(1, num_all * head_dim), jax.random.normal(jax.random.key(2), (5, head_dim // 2))
    actual = decode_linear_gpu.qkv_heads_with_rope(qkv, bias, jnp.cos(angle), jnp.sin(angle), num_kv_heads=num_kv_heads)
    head = (jnp.sum(qkv, axis=0) + bias.astype(jnp.float32)[None]).reshape(5, 1, num_all, head_dim)
    rotated = apply_rope(head, RopeAngles(jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]))[:, 0]
    key, value = rotated[:, num_heads : num_heads + num_kv_heads], head[:, 0, -num_kv_heads:]
    for each, expected in zip(actual, (rotated[:, :num_heads], key, value), strict=True):
        assert _error(each, expected) < ROUNDING


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
def test_is_supported(preset, dtype, num_rows, expected):
    assert is_supported(PRESETS[preset], dtype, num_rows=num_rows) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"hidden_size": 1568, "num_attention_heads": 14, "num_key_value_heads": 2}, False),
        ({"intermediate_size": 8992}, False),
        ({"num_attention_heads": 48, "num_key_value_heads": 1}, False),  # 32 columns of keys, half a tile
        ({"num_attention_heads": 96, "num_key_value_heads": 4}, False),  # heads of 16
    ],
)
def test_is_supported_for_sizes(change, expected):
    sizes = dataclasses.replace(PRESETS["2b"], **change)
    assert is_supported(sizes, "bfloat16", num_rows=4) == expected


@pytest.mark.parametrize(
    ("dims", "expected"), [((1536, 2048), 4), ((8960, 1536), 10), ((3584, 4608), 2), ((18944, 3584), 4)]
)
def test_number_of_splits(dims, expected):
    """For the matrices of 2B and 7B: more than one program an SM, each with enough to read."""
    shapes = (jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((64, dims[0]), dims))
    assert len(jax.eval_shape(decode_linear_gpu.matmul_split_k, *shapes)) == expected


def test_a_jax_without_pallas_for_triton_is_not_supported(monkeypatch):
    monkeypatch.setattr(decode_linear_gpu, "triton", None)
    assert not is_supported(PRESETS["2b"], "bfloat16", num_rows=4)
