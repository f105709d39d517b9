"""The kernels of decoding on GPU, computed by Pallas' interpreter: the same attention as the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1vl_jax.config import Mesh
from r1vl_jax.models.attention import decode_attention
from r1vl_jax.models.flash_decode import flash_decode, is_suited
from r1vl_jax.sharding import make_mesh


def _inputs(num_prompts: int, num_samples: int, num_kv_heads: int, group: int, width: int, prefix: int, suffix: int):
    """Queries, caches and the mask of the prompts, the first of which is short."""
    rng = np.random.default_rng(0)
    num_rows = num_prompts * num_samples

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), jnp.bfloat16)

    mask_PS = np.ones((num_prompts, prefix), bool)
    mask_PS[0, : prefix - 5] = False
    caches = {
        "prefix_key_PKHS": normal(num_prompts, num_kv_heads, width, prefix),
        "prefix_value_PKSH": normal(num_prompts, num_kv_heads, prefix, width),
        "prefix_mask_PS": mask_PS,
        "suffix_key_BKHT": normal(num_rows, num_kv_heads, width, suffix),
        "suffix_value_BKTH": normal(num_rows, num_kv_heads, suffix, width),
    }
    return normal(num_rows, num_kv_heads * group, width), caches


def _exact(query_BNH, caches, step) -> np.ndarray:
    wide = {name: each if each.dtype == bool else each.astype(jnp.float32) for name, each in caches.items()}
    return np.asarray(decode_attention(query_BNH.astype(jnp.float32), **wide, step=step, platform="cpu"))


@pytest.mark.parametrize(
    ("sizes", "steps"),
    [
        ((2, 3, 2, 6, 32, 128, 64), (0, 63)),
        ((2, 2, 2, 7, 64, 192, 192), (0, 63, 64, 129)),  # blocks of 64, three of them
        ((1, 2, 1, 2, 16, 64, 256), (127, 128, 255)),
        ((3, 1, 2, 17, 16, 64, 128), (100,)),  # more queries than the smallest product has rows
        ((2, 20, 1, 7, 16, 64, 64), (40,)),  # of twenty samples no more than five together
    ],
)
@pytest.mark.parametrize("is_common", [True, False])
def test_it_is_the_plain_attention(sizes, steps, is_common):
    query_BNH, caches = _inputs(*sizes)
    last = sizes[-1] - 1
    for step in steps:
        step = jnp.int32(step) if is_common else (step + 40 * jnp.arange(len(query_BNH))) % last
        expected = _exact(query_BNH, caches, step)
        actual = np.asarray(flash_decode(query_BNH, **caches, step=step, mesh=None, interpret=True), np.float32)
        assert np.linalg.norm(actual - expected) < 4e-3 * np.linalg.norm(expected)


def test_columns_behind_the_step_may_hold_anything():
    query_BNH, caches = _inputs(2, 2, 2, 3, 32, 64, 192)
    for name, axis in (("suffix_key_BKHT", 3), ("suffix_value_BKTH", 2)):
        column = jnp.expand_dims(jnp.arange(192), [each for each in range(4) if each != axis])
        caches[name] = jnp.where(column > 70, 1e4, caches[name])
    expected = _exact(query_BNH, caches, jnp.int32(70))
    actual = np.asarray(flash_decode(query_BNH, **caches, step=jnp.int32(70), mesh=None, interpret=True), np.float32)
    assert np.linalg.norm(actual - expected) < 4e-3 * np.linalg.norm(expected)


@pytest.mark.parametrize("num_prompts", [4, 3])
def test_devices_have_their_own_rows_and_heads(num_prompts):
    """Three prompts do not divide over four parts: then every part has all of them."""
    mesh = make_mesh(Mesh(data=1, fsdp=4, tensor=2), jax.devices()[:8])
    query_BNH, caches = _inputs(num_prompts, 2, 2, 3, 32, 64, 64)

    def attend(query_BNH, caches):
        return flash_decode(query_BNH, **caches, step=jnp.int32(20), mesh=mesh, interpret=True)

    output = jax.jit(attend)(query_BNH, caches)
    expected = _exact(query_BNH, caches, jnp.int32(20))
    assert np.linalg.norm(np.asarray(output, np.float32) - expected) < 4e-3 * np.linalg.norm(expected)
    rows = 2 if num_prompts == 4 else 6
    assert {shard.data.shape for shard in output.addressable_shards} == {(rows, 3, 32)}


@pytest.mark.parametrize(
    ("dtype", "queries", "width", "prefix", "suffix", "expected"),
    [
        ("bfloat16", 4, 128, 1024, 1024, True),
        ("bfloat16", 64, 128, 64, 192, True),
        ("bfloat16", 65, 128, 64, 192, False),
        ("bfloat16", 4, 128, 1024, 100, False),
        ("bfloat16", 4, 96, 64, 64, False),
        ("float32", 4, 128, 64, 64, False),
    ],
)
def test_what_is_suited(dtype, queries, width, prefix, suffix, expected):
    query_BNH, suffix_key = jnp.zeros((2, queries, width), dtype), jnp.zeros((2, 1, width, suffix), dtype)
    assert is_suited(query_BNH, jnp.ones((2, prefix), bool), suffix_key) == expected
