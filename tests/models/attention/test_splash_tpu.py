"""Splash attention: interpreted, against plain attention; and compiled ahead of time for TPUs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from r1vl_jax import config
from r1vl_jax.aot.topologies import parse_topology, set_up_compile_only
from r1vl_jax.models.attention.attention import attention
from r1vl_jax.models.attention.shared_prefix import SharedPrefix
from r1vl_jax.models.attention.splash_tpu import splash_attention
from r1vl_jax.sharding.mesh import make_mesh

B, T, N, K, H = 2, 200, 4, 2, 80  # columns are not a multiple of any block; head width of the vision tower


def make_inputs():
    rng = np.random.default_rng(0)
    query, key, value, weight = (rng.normal(size=(B, T, heads, H)).astype(np.float32) for heads in (N, K, K, N))
    segment = np.repeat(np.array([[1, 0, 2, 2], [0, 1, 1, 3]]), 50, axis=1)
    return query, key, value, weight, segment


def value_and_gradients(attend, is_causal):
    query, key, value, weight, segment = make_inputs()

    def loss(query, key, value):
        output = attend(query, key, value, segment, is_causal)
        return jnp.sum(weight * output), output

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(query, key, value)


def plain(query, key, value, segment, is_causal):
    return attention(query, key, value, segment_BT=segment, is_causal=is_causal, platform="cpu")


@pytest.mark.parametrize("shared_prefix", [SharedPrefix(2, 60), SharedPrefix(1, 72), SharedPrefix(5, 33)])
def test_completions_with_a_shared_prefix_equal_plain_attention(shared_prefix):
    def splash(query, key, value, segment, is_causal):
        return splash_attention(
            query, key, value, segment, is_causal=is_causal, shared_prefix=shared_prefix, mesh=None, interpret=True
        )

    def plain(query, key, value, segment, is_causal):
        return attention(
            query, key, value, segment_BT=segment, is_causal=is_causal, shared_prefix=shared_prefix, platform="cpu"
        )

    actual, expected = (value_and_gradients(attend, True) for attend in (splash, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), actual, expected)


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("sizes", [None, (1, 2, 2), (2, 1, 1), (4, 1, 2)])
def test_equals_plain_attention(is_causal, sizes):
    """Segments, padding, grouped-query heads, gradients; rows and heads sharded, and rows that cannot be sharded."""
    mesh = None if sizes is None else make_mesh(config.Mesh(*sizes), jax.devices()[: int(np.prod(sizes))])

    def splash(query, key, value, segment, is_causal):
        return splash_attention(query, key, value, segment, is_causal=is_causal, mesh=mesh, interpret=True)

    actual, expected = (value_and_gradients(attend, is_causal) for attend in (splash, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), actual, expected)


@pytest.mark.parametrize("slice_name", ["v5e:1x1", "v5p:2x2x1", "v6e:1x1"])
@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "head_dim", "is_causal"),
    [(28, 4, 128, True), (16, 16, 80, False)],
    ids=["7b", "tower"],
)
def test_compiles_for_a_tpu(slice_name, num_heads, num_kv_heads, head_dim, is_causal):
    """Forward and backward, for one chip, by the TPU's own compiler."""
    pytest.importorskip("libtpu")
    set_up_compile_only()
    on_chip = SingleDeviceSharding(parse_topology(slice_name).devices()[0])

    def loss(query, key, value, segment):
        return jnp.sum(splash_attention(query, key, value, segment, is_causal=is_causal, mesh=None))

    columns = 600  # padded to 640, which the largest block does not divide
    query, key, value = (
        jax.ShapeDtypeStruct((1, columns, heads, head_dim), jnp.bfloat16, sharding=on_chip)
        for heads in (num_heads, num_kv_heads, num_kv_heads)
    )
    segment = jax.ShapeDtypeStruct((1, columns), jnp.int32, sharding=on_chip)
    lowered = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(query, key, value, segment)
    kernels = lowered.compile().as_text().count('custom_call_target="tpu_custom_call"')
    assert kernels == 3  # forward, dQ, dK and dV
