"""Flash-decoding kernels in Pallas' interpreter, against plain decode attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from r1vl_jax.arrays import BATCH_AXES
from r1vl_jax.config import Mesh
from r1vl_jax.models.attention import flash_decode_gpu
from r1vl_jax.models.attention.decode import decode_attention
from r1vl_jax.models.attention.flash_decode_gpu import flash_decode, is_supported
from r1vl_jax.sharding.mesh import make_mesh


def _inputs(num_prompts: int, num_samples: int, num_kv_heads: int, group: int, head_dim: int, prefix: int, suffix: int):
    """Queries, new keys and values, and caches with the mask of the prompts, the first of which is padded."""
    rng = np.random.default_rng(0)
    num_rows = num_prompts * num_samples

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), jnp.bfloat16)

    def caches(rows: int, length: int) -> tuple[jax.Array, jax.Array]:
        return normal(rows, num_kv_heads, head_dim, length), normal(rows, num_kv_heads, length, head_dim)

    mask_PS = np.ones((num_prompts, prefix), bool)
    mask_PS[0, : prefix - 5] = False
    new = normal(num_rows, num_kv_heads, head_dim), normal(num_rows, num_kv_heads, head_dim)
    settings = {
        "prefix": caches(num_prompts, prefix),
        "prefix_mask_PS": jnp.asarray(mask_PS),
        "suffix": caches(num_rows, suffix),
    }
    return normal(num_rows, num_kv_heads * group, head_dim), new, settings


def _check(actual, query_BNH, new, settings, step) -> None:
    """Near plain attention in float32; the written caches are equal to the bit."""
    inputs = jax.tree.map(
        lambda each: each if each.dtype == bool else each.astype(jnp.float32), (query_BNH, new, settings)
    )
    output, suffix = decode_attention(*inputs[:2], **inputs[2], step=step, platform="cpu")
    assert jnp.linalg.norm(actual[0].astype(jnp.float32) - output) < 4e-3 * jnp.linalg.norm(output)
    for written, expected in zip(actual[1], suffix, strict=True):
        np.testing.assert_array_equal(written.astype(jnp.float32), expected)


@pytest.mark.parametrize(
    ("sizes", "steps"),
    [
        ((2, 3, 2, 6, 32, 128, 64), (0, 63)),
        ((2, 2, 2, 7, 64, 192, 192), (0, 63, 64, 129)),  # three blocks of 64 keys
        ((1, 2, 1, 2, 16, 64, 256), (127, 128, 255)),
        ((3, 1, 2, 17, 16, 64, 128), (100,)),  # 17 query heads in a tile of 32 rows
        ((2, 20, 1, 7, 16, 64, 64), (40,)),  # twenty samples, of which five fit into a tile
        ((2, 2, 2, 2, 16, 320, 448), (300, 447)),  # five and seven blocks in four splits, or in two
    ],
)
@pytest.mark.parametrize(("is_common_step", "num_programs"), [(True, 264), (False, 264), (False, 1), (False, 16)])
def test_equals_plain_attention(monkeypatch, sizes, steps, is_common_step, num_programs):
    """Whatever the number of splits: one, as many as there are blocks, or between."""
    monkeypatch.setattr(flash_decode_gpu, "_TARGET_PROGRAMS", num_programs)
    query_BNH, new, settings = _inputs(*sizes)
    last = sizes[-1] - 1
    for step in steps:
        step = jnp.int32(step) if is_common_step else (step + 40 * jnp.arange(len(query_BNH))) % last
        actual = flash_decode(query_BNH, new, **settings, step=step, interpret=True)
        _check(actual, query_BNH, new, settings, step)


@pytest.mark.parametrize("step", [63, 64, 70])
def test_columns_from_the_step_on_are_masked(step):
    query_BNH, new, settings = _inputs(2, 2, 2, 3, 32, 64, 192)
    key_BKHT, value_BKTH = settings["suffix"]
    column = jnp.arange(192)
    settings["suffix"] = jnp.where(column >= step, 1e4, key_BKHT), jnp.where(column[:, None] >= step, 1e4, value_BKTH)
    actual = flash_decode(query_BNH, new, **settings, step=jnp.int32(step), interpret=True)
    _check(actual, query_BNH, new, settings, jnp.int32(step))


def test_rows_and_heads_are_sharded():
    mesh = make_mesh(Mesh(data=1, fsdp=4, tensor=2), jax.devices()[:8])
    query_BNH, new, settings = _inputs(4, 2, 2, 3, 32, 64, 64)

    def attend(query_BNH, new, settings):
        return flash_decode(query_BNH, new, **settings, step=jnp.int32(20), is_tensor_parallel=True, interpret=True)

    rows, axes = PartitionSpec(BATCH_AXES), set(BATCH_AXES)
    sharded = jax.shard_map(attend, mesh=mesh, in_specs=rows, out_specs=rows, axis_names=axes, check_vma=False)
    actual = jax.jit(sharded)(query_BNH, new, settings)
    _check(jax.device_get(actual), query_BNH, new, settings, jnp.int32(20))
    assert {shard.data.shape for shard in actual[0].addressable_shards} == {(2, 3, 32)}
    assert {shard.data.shape for shard in actual[1][0].addressable_shards} == {(2, 1, 32, 64)}


@pytest.mark.parametrize(
    ("dtype", "queries", "head_dim", "prefix", "suffix", "expected"),
    [
        ("bfloat16", 4, 128, 1024, 1024, True),
        ("bfloat16", 64, 128, 64, 192, True),
        ("bfloat16", 65, 128, 64, 192, False),
        ("float16", 4, 128, 1024, 1024, True),
        ("bfloat16", 4, 128, 1024, 100, False),
        ("bfloat16", 4, 128, 100, 1024, False),
        ("bfloat16", 4, 96, 64, 64, False),
        ("float32", 4, 128, 64, 64, False),
    ],
)
def test_is_supported(dtype, queries, head_dim, prefix, suffix, expected):
    query_BNH, suffix_key = jnp.zeros((2, queries, head_dim), dtype), jnp.zeros((2, 1, head_dim, suffix), dtype)
    assert is_supported(query_BNH, jnp.ones((2, prefix), bool), suffix_key) == expected
