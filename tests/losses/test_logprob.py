"""Chunked log-probabilities against plain float64 NumPy, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from r1vl_jax import losses

B, T, D, V = 3, 7, 4, 11
# One column at a time (3 tokens, also for a size below B), a size that does not divide 7 columns, everything at once.
CHUNK_SIZES = (1, 3, 9, 100)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(B, T, D)).astype(np.float32)
    head = rng.normal(size=(D, V)).astype(np.float32)
    return hidden, head, rng.integers(0, V, (B, T)), rng.normal(size=(B, T)).astype(np.float32)


def expected(hidden, head, target, temperature):
    """Log-probability, entropy, and the probabilities themselves, in float64."""
    logits = hidden.astype(np.float64) @ head.astype(np.float64) / temperature
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    logp = np.log(probability)
    return np.take_along_axis(logp, target[..., None], -1)[..., 0], -(probability * logp).sum(-1), probability


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_are_those_of_numpy(arrays, chunk_size, temperature):
    hidden, head, target, _ = arrays
    logp, entropy = losses.token_logp(hidden, head, target, chunk_size=chunk_size, temperature=temperature)
    wanted_logp, wanted_entropy, _ = expected(hidden, head, target, temperature)
    np.testing.assert_allclose(logp, wanted_logp, atol=2e-6)
    np.testing.assert_allclose(entropy, wanted_entropy, atol=2e-6)


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_gradients_are_those_of_the_softmax(arrays, chunk_size):
    hidden, head, target, weight = arrays

    def objective(hidden, head):
        logp, _ = losses.token_logp(hidden, head, target, chunk_size=chunk_size, temperature=0.7)
        return jnp.sum(weight * logp)

    to_hidden, to_head = jax.jit(jax.grad(objective, (0, 1)))(hidden, head)
    _, _, probability = expected(hidden, head, target, 0.7)
    to_logits = weight[..., None] * (np.eye(V)[target] - probability) / 0.7
    np.testing.assert_allclose(to_hidden, to_logits @ head.T, atol=1e-5)
    np.testing.assert_allclose(to_head, np.einsum("btd,btv->dv", hidden, to_logits), atol=1e-5)


def test_entropy_is_a_constant(arrays):
    hidden, head, target, _ = arrays
    for chunk_size in (3, 100):
        gradient = jax.grad(lambda h, size=chunk_size: losses.token_logp(h, head, target, chunk_size=size)[1].sum())
        np.testing.assert_array_equal(gradient(jnp.asarray(hidden)), np.zeros_like(hidden))


def test_gradient_of_a_bfloat16_head_is_summed_in_float32():
    """512 chunks add the same small number: a bfloat16 sum would stop growing at 256 times it."""
    length = 512
    hidden = jnp.ones((1, length, 1), jnp.bfloat16)
    head = jnp.zeros((1, 2), jnp.bfloat16)
    target = jnp.zeros((1, length), jnp.int32)
    gradient = jax.grad(lambda head: losses.token_logp(hidden, head, target, chunk_size=1)[0].sum())(head)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(gradient.astype(jnp.float32), [[length / 2, -length / 2]])


def test_logits_are_float32_where_the_model_is_bfloat16(arrays):
    hidden, head, target, _ = (jnp.asarray(array) for array in arrays)
    hidden, head = hidden.astype(jnp.bfloat16), head.astype(jnp.bfloat16)
    logp, entropy = losses.token_logp(hidden, head, target, chunk_size=3)
    wanted_logp, wanted_entropy, _ = expected(np.float32(hidden), np.float32(head), np.asarray(target), 1.0)
    assert logp.dtype == entropy.dtype == jnp.float32
    np.testing.assert_allclose(logp, wanted_logp, atol=1e-5)
    np.testing.assert_allclose(entropy, wanted_entropy, atol=1e-5)


def test_a_single_chunk_pays_for_no_scan(arrays):
    hidden, head, target, _ = arrays

    def program(chunk_size):
        return str(jax.make_jaxpr(lambda h: losses.token_logp(h, head, target, chunk_size=chunk_size))(hidden))

    assert "scan" not in program(B * T)
    assert "scan" in program(B * T - 1)


def test_never_all_logits_at_once():
    """Temporaries of value and gradient stay below a quarter of what the logits alone would take."""
    length, vocabulary = 64, 4096
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, length, 8), (8, vocabulary))]
    target = jnp.zeros((2, length), jnp.int32)

    def objective(hidden, head):
        return losses.token_logp(hidden, head, target, chunk_size=4)[0].sum()

    compiled = jax.jit(jax.grad(objective, (0, 1))).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * length * vocabulary * 4 / 4


def test_eight_devices_agree_with_one():
    rng = np.random.default_rng(0)
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    hidden, head = rng.normal(size=(8, 6, D)).astype(np.float32), rng.normal(size=(D, 16)).astype(np.float32)
    target = rng.integers(0, 16, (8, 6))

    @jax.jit
    def gradient(hidden, head):
        return jax.grad(lambda w: losses.token_logp(hidden, w, target, chunk_size=16)[0].sum())(head)

    rows = jax.device_put(hidden, NamedSharding(mesh, PartitionSpec("data")))
    columns = jax.device_put(head, NamedSharding(mesh, PartitionSpec(None, "tensor")))
    np.testing.assert_allclose(gradient(rows, columns), gradient(hidden, head), atol=1e-5)
