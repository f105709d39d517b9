"""Chunked log-probabilities against plain float64 computations: values, gradients, memory and collectives."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import NamedSharding, PartitionSpec

from r1vl_jax import losses
from r1vl_jax.config import Mesh
from r1vl_jax.sharding.mesh import make_mesh

B, T, D, V = 3, 7, 4, 11
# One column (3 tokens) at a time; a size that does not divide 7 columns; everything in one chunk.
CHUNK_SIZES = (1, 9, 100)


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
    expected_logp, expected_entropy, _ = expected(hidden, head, target, temperature)
    np.testing.assert_allclose(logp, expected_logp, atol=2e-6)
    np.testing.assert_allclose(entropy, expected_entropy, atol=2e-6)


def torch_gradients(hidden, head, target, d_logp, d_entropy, temperature):
    """Gradients of a weighted sum of both outputs with respect to hidden states and head: torch's, in float64."""
    hidden, head = (torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in (hidden, head))
    logp = torch.log_softmax(hidden @ head / temperature, -1)
    entropy = -(logp.exp() * logp).sum(-1)
    chosen = logp.gather(-1, torch.tensor(target)[..., None])[..., 0]
    (torch.tensor(d_logp) * chosen + torch.tensor(d_entropy) * entropy).sum().backward()
    return hidden.grad.numpy(), head.grad.numpy()


def our_gradients(hidden, head, target, d_logp, d_entropy, chunk_size, temperature):
    def objective(hidden, head):
        logp, entropy = losses.token_logp(hidden, head, target, chunk_size=chunk_size, temperature=temperature)
        return jnp.sum(d_logp * logp + d_entropy * entropy)

    return jax.jit(jax.grad(objective, (0, 1)))(hidden, head)


def error(value, expected):
    """Norm of the difference, relative to the expected norm."""
    return np.linalg.norm(np.asarray(value, np.float64) - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_gradients_are_those_of_torch(arrays, chunk_size):
    hidden, head, target, weight = arrays
    for d_logp, d_entropy in ((weight, 0 * weight), (0 * weight, weight)):
        gradients = our_gradients(hidden, head, target, d_logp, d_entropy, chunk_size, 0.7)
        expected_gradients = torch_gradients(hidden, head, target, d_logp, d_entropy, 0.7)
        assert error(gradients[0], expected_gradients[0]) < 1e-6
        assert error(gradients[1], expected_gradients[1]) < 1e-6


def large_arrays():
    """Large enough to show errors of summation: 96 tokens, width 256, vocabulary 4,000."""
    rng = np.random.default_rng(0)
    hidden, head = rng.normal(size=(2, 48, 256)), rng.normal(size=(256, 4000)) / 8
    weight, other_weight = rng.normal(size=(2, 2, 48)).astype(np.float32)
    return hidden.astype(np.float32), head.astype(np.float32), rng.integers(0, 4000, (2, 48)), weight, other_weight


def test_float32_is_within_1e6_of_float64():
    hidden, head, target, *weights = large_arrays()
    logp, entropy = losses.token_logp(hidden, head, target, chunk_size=20)
    expected_logp, expected_entropy, _ = expected(hidden, head, target, 1.0)
    assert error(logp, expected_logp) < 1e-6
    assert error(entropy, expected_entropy) < 1e-6
    d_hidden, d_head = our_gradients(hidden, head, target, *weights, 20, 1.0)
    expected_hidden, expected_head = torch_gradients(hidden, head, target, *weights, 1.0)
    assert error(d_hidden, expected_hidden) < 1e-6
    assert error(d_head, expected_head) < 1e-6


def test_bfloat16_rounds_gradients_to_4e3():
    """Values are those of float32 for the rounded inputs; gradients are rounded to bfloat16 once or twice."""
    hidden, head, target, *weights = large_arrays()
    hidden, head = (jnp.asarray(array, jnp.bfloat16) for array in (hidden, head))
    exact = np.asarray(hidden, np.float32), np.asarray(head, np.float32)
    logp, entropy = losses.token_logp(hidden, head, target, chunk_size=20)
    expected_logp, expected_entropy, _ = expected(*exact, target, 1.0)
    assert error(logp, expected_logp) < 1e-6
    assert error(entropy, expected_entropy) < 1e-6
    d_hidden, d_head = our_gradients(hidden, head, target, *weights, 20, 1.0)
    expected_hidden, expected_head = torch_gradients(*exact, target, *weights, 1.0)
    assert error(d_hidden, expected_hidden) < 4e-3
    assert error(d_head, expected_head) < 4e-3


def test_gradient_of_a_bfloat16_head_is_summed_in_float32():
    """512 chunks add the same small number: a sum in bfloat16 would stop growing at 256 times that number."""
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
    expected_logp, expected_entropy, _ = expected(np.float32(hidden), np.float32(head), np.asarray(target), 1.0)
    assert logp.dtype == entropy.dtype == jnp.float32
    np.testing.assert_allclose(logp, expected_logp, atol=1e-5)
    np.testing.assert_allclose(entropy, expected_entropy, atol=1e-5)


def temporaries(objective, num_tokens, width, vocabulary):
    """Bytes of temporaries of the compiled value and gradient, without inputs and outputs."""
    hidden = jax.ShapeDtypeStruct((2, num_tokens // 2, width), jnp.float32)
    head = jax.ShapeDtypeStruct((width, vocabulary), jnp.float32)
    target = jax.ShapeDtypeStruct((2, num_tokens // 2), jnp.int32)
    compiled = jax.jit(jax.value_and_grad(objective, (0, 1))).lower(hidden, head, target).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def chunked(chunk_size):
    return lambda *arrays: sum(part.sum() for part in losses.token_logp(*arrays, chunk_size=chunk_size))


def plain(hidden, head, target):
    logp = jax.nn.log_softmax(hidden @ head)
    chosen = jnp.take_along_axis(logp, target[..., None], -1)
    return chosen.sum() - (jnp.exp(logp) * logp).sum()


def test_temporaries_do_not_grow_with_the_number_of_tokens():
    """Except for the hidden states themselves and a few numbers per token."""
    few, many = (temporaries(chunked(64), num_tokens, 16, 8192) for num_tokens in (256, 2048))
    assert many - few <= (2048 - 256) * 4 * (2 * 16 + 16)
    assert few < 5 * 64 * 8192 * 4


@pytest.mark.slow
def test_temporaries_at_the_size_of_2b():
    """Hidden states of 4,096 x 1,536, a vocabulary of 151,936, chunks of 512: at most 1/8 of the plain computation."""
    sizes = (4096, 1536, 151_936)
    chunked_bytes, plain_bytes = temporaries(chunked(512), *sizes), temporaries(plain, *sizes)
    print(f"temporaries: {chunked_bytes / 2**30:.2f} GiB, plain {plain_bytes / 2**30:.2f} GiB")
    assert chunked_bytes <= plain_bytes / 8


def test_a_head_sharded_over_its_vocabulary_is_never_gathered():
    """No collective moves more than a few numbers per token, or the gradient of the hidden states."""
    mesh = jax.make_mesh((8,), ("tensor",), axis_types=(jax.sharding.AxisType.Auto,))
    hidden, head, target = jnp.ones((2, 32, 24)), jnp.ones((24, 4096)), jnp.zeros((2, 32), jnp.int32)
    head = jax.device_put(head, NamedSharding(mesh, PartitionSpec(None, "tensor")))
    gradient = jax.jit(jax.value_and_grad(chunked(16), (0, 1)))
    program = gradient.lower(hidden, head, target).compile().as_text()
    collective = re.compile(r"= \w+\[([\d,]*)\]\S* (?:all-gather|all-reduce|all-to-all|collective-permute)\(")
    moved = [np.prod([int(size) for size in shape.split(",") if size]) for shape in collective.findall(program)]
    assert "all-gather" not in program
    assert moved
    assert max(moved) <= 2 * 32 * 24
    assert gradient(hidden, head, target)[1][1].sharding.spec == PartitionSpec(None, "tensor")


@pytest.mark.parametrize(
    ("sizes", "num_tokens", "num_shards"),
    [((2, 2, 2), 64, 4), ((2, 2, 2), 62, 2), ((1, 8, 1), 64, 8), ((1, 8, 1), 62, 1)],
)
def test_eight_devices_agree_with_one(sizes, num_tokens, num_shards):
    """Collectives move hidden states; the head and its gradient only where V cannot be sharded."""
    rng = np.random.default_rng(0)
    mesh = make_mesh(Mesh(*sizes))
    hidden, head = rng.normal(size=(8, 6, 128)).astype(np.float32), rng.normal(size=(128, num_tokens))
    head, weight = head.astype(np.float32), rng.normal(size=(8, 6)).astype(np.float32)
    target = rng.integers(0, num_tokens, (8, 6))

    def value(hidden, head, mesh=None):
        logp, entropy = losses.token_logp(hidden, head, target, chunk_size=1, mesh=mesh)
        return jnp.sum(weight * (logp + 0.3 * entropy)), (logp, entropy)

    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    columns = NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))
    sharded = jax.device_put(hidden, rows), jax.device_put(head, columns)
    gradient = jax.grad(value, (0, 1), has_aux=True)
    compiled = jax.jit(lambda *arrays: gradient(*arrays, mesh)).lower(*sharded).compile()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), compiled(*sharded), gradient(hidden, head))
    moved = re.findall(rf"= f32\[128,{num_tokens}\]\S* (?:all-gather|all-reduce)\(", compiled.as_text())
    assert bool(moved) == (num_shards == 1)


def test_a_masked_target_outside_the_vocabulary_is_ignored():
    """Such as the -100 of other libraries, with logits far below zero."""
    hidden, head = np.ones((1, 2, 1), np.float32), np.full((1, 3), -150.0, np.float32)
    target, mask = np.array([[0, -100]]), np.array([[True, False]])

    def loss(hidden, head):
        logp, _ = losses.token_logp(hidden, head, target, chunk_size=2)
        return losses.supervised(logp, mask)[0]

    value, gradients = jax.value_and_grad(loss, (0, 1))(hidden, head)
    assert float(value) == pytest.approx(np.log(3), rel=1e-5)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_empty_batches(shape):
    logp, entropy = losses.token_logp(np.zeros((*shape, 4)), np.zeros((4, 5)), np.zeros(shape, int), chunk_size=8)
    assert logp.shape == entropy.shape == shape
