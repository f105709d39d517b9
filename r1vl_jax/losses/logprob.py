"""Log-probabilities of given tokens, chunk by chunk: the logits of a whole batch are never materialised.

At 8,192 tokens and a vocabulary of 152,064 the float32 logits alone take 4.6 GiB; those of a chunk of 1,024 tokens 0.6.
The forward pass keeps three numbers per token (as flash attention does) and the backward pass recomputes the logits of
each chunk. Inside this module arrays are time-major, [T, B], so that a sharded axis B stays sharded when T is split
into chunks of K columns.

On a mesh the head is sharded over the vocabulary: every device computes the logits of all tokens of a chunk for its
shard of the vocabulary. Hidden states are all-gathered, a chunk at a time; the head and its gradient are not.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from r1vl_jax.arrays import BATCH_AXES


def token_logp(
    hidden_BTD: Float[Array, "B T D"],
    head_DV: Float[Array, "D V"],
    target_BT: Int[Array, "B T"],
    *,
    chunk_size: int,
    temperature: float = 1.0,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Log-probability of each target token, and entropy of the next-token distribution at its position.

        logp = log softmax(hidden @ head / temperature)[target]        entropy = - sum_v p_v log p_v

    Matrix products have the dtype of `hidden` and accumulate in float32; logits, softmax and the head's gradient (a sum
    over chunks) are always float32. With a bfloat16 `hidden` the backward pass rounds the gradient of the logits to
    bfloat16 before the matrix products.

    Args:
        hidden_BTD: final hidden states; position t predicts `target_BT[:, t]`.
        head_DV: output projection.
        target_BT: token ids in [0, V). Other ids, such as the -100 of some libraries, are clipped; their positions must
            be masked out of the loss.
        chunk_size: tokens whose logits a device holds at a time. A chunk is a number of whole columns of B tokens, at
            least one.
        temperature: divides the logits; a constant to the gradient.
        mesh: its axes (data, fsdp) shard B and (fsdp, tensor) shard V; None leaves sharding to the compiler.

    Returns:
        Log-probability and entropy in nats, float32. Both are differentiable with respect to `hidden_BTD` and
        `head_DV`, once and in reverse mode.
    """
    if target_BT.size == 0:
        return jnp.zeros(target_BT.shape), jnp.zeros(target_BT.shape)
    sharding = _ChunkSharding.on(mesh, chunk_size, target_BT.shape[0], head_DV.shape[1])
    hidden_TBD, target_TB = jnp.swapaxes(hidden_BTD, 0, 1), jnp.clip(target_BT.T, 0, head_DV.shape[1] - 1)
    logp_TB, entropy_TB = _logp(sharding, hidden_TBD, head_DV, target_TB, jnp.float32(temperature))
    return logp_TB.T, entropy_TB.T


@dataclass(frozen=True)
class _ChunkSharding:
    """Size and sharding of chunks.

    Attributes:
        columns: columns K of a chunk.
        mesh: None leaves sharding to the compiler.
        vocabulary_axes: mesh axes that shard V; fewer where their product does not divide V.
    """

    columns: int
    mesh: Mesh | None = None
    vocabulary_axes: tuple[str, ...] = ()

    @classmethod
    def on(cls, mesh: Mesh | None, chunk_size: int, num_rows: int, vocabulary_size: int) -> "_ChunkSharding":
        if mesh is None:
            return cls(max(1, chunk_size // num_rows))
        candidates = (("fsdp", "tensor"), ("tensor",), ())
        axes = next(a for a in candidates if vocabulary_size % math.prod(mesh.shape[axis] for axis in a) == 0)
        num_shards = math.prod(size for axis, size in mesh.shape.items() if axis in (*axes, *BATCH_AXES))
        return cls(max(1, chunk_size * num_shards // num_rows), mesh, axes)

    def shard_head(self, head_DV: Array) -> Array:
        """Shards the head over the vocabulary."""
        return self._constrain(head_DV, None, self.vocabulary_axes)

    def gather_rows(self, chunk: tuple[Array, ...]) -> tuple[Array, ...]:
        """All-gathers arrays [K, B, ...] over the axes that shard V, so that a device has all tokens of its logits."""
        axes = tuple(axis for axis in BATCH_AXES if axis not in self.vocabulary_axes)
        return tuple(self._constrain(array_KB, None, axes) for array_KB in chunk)

    def shard_rows(self, chunk: tuple[Array, ...]) -> tuple[Array, ...]:
        """Shards arrays [K, B, ...] over rows again."""
        return tuple(self._constrain(array_KB, None, BATCH_AXES) for array_KB in chunk)

    def _constrain(self, array: Array, *axes: tuple[str, ...] | None) -> Array:
        if self.mesh is None:
            return array
        spec = PartitionSpec(*(entry or None for entry in axes))
        return jax.lax.with_sharding_constraint(array, NamedSharding(self.mesh, spec))


def _logp_primal(
    sharding: _ChunkSharding, hidden_TBD: Array, head_DV: Array, target_TB: Array, temperature: Array
) -> tuple[Array, Array]:
    return _logp_forward(sharding, hidden_TBD, head_DV, target_TB, temperature)[0]


def _logp_forward(
    sharding: _ChunkSharding, hidden_TBD: Array, head_DV: Array, target_TB: Array, temperature: Array
) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
    """Log-probability and entropy, and the residuals of the backward pass: the inputs and three numbers per token."""
    sharded_head_DV = sharding.shard_head(head_DV)

    def body(_: None, chunk: tuple[Array, ...]) -> tuple[None, tuple[Array, ...]]:
        hidden_KBD, target_KB = sharding.gather_rows(chunk)
        logit_KBV = _logits(hidden_KBD, sharded_head_DV, temperature)
        is_target_KBV = _is_target(target_KB, logit_KBV)
        target_KB1 = jnp.sum(jnp.where(is_target_KBV, logit_KBV, 0.0), axis=-1, keepdims=True)
        # The maximum includes the target's logit already. Naming it here makes XLA compute the sums one after another,
        # each with one temporary of the size of the logits.
        max_KB1 = jnp.maximum(jnp.max(logit_KBV, axis=-1, keepdims=True), target_KB1)
        log_sum_KB1 = jnp.log(jnp.sum(jnp.exp(logit_KBV - max_KB1), axis=-1, keepdims=True))
        logp_KB = (target_KB1 - max_KB1 - log_sum_KB1)[..., 0]
        logp_KBV = logit_KBV - max_KB1 - log_sum_KB1
        entropy_KB = -jnp.sum(jnp.exp(logp_KBV) * logp_KBV, axis=-1)
        return None, sharding.shard_rows((logp_KB, entropy_KB, max_KB1[..., 0], log_sum_KB1[..., 0]))

    _, (logp_TB, entropy_TB, max_TB, log_sum_TB) = _scan_chunks(body, None, sharding.columns, (hidden_TBD, target_TB))
    residuals = (hidden_TBD, head_DV, target_TB, temperature, max_TB, log_sum_TB, entropy_TB)
    return (logp_TB, entropy_TB), residuals


def _logp_backward(
    sharding: _ChunkSharding, residuals: tuple[Array, ...], gradients: tuple[Array, Array]
) -> tuple[Array, Array, None, Array]:
    """The gradient of hidden states and head, from the gradients of log-probability and entropy.

    d logp / d logit_v = [v is the target] - p_v          d entropy / d logit_v = - p_v (log p_v + entropy)
    """
    hidden_TBD, head_DV, target_TB, temperature, *softmax_stats = residuals
    sharded_head_DV = sharding.shard_head(head_DV)

    def body(d_head_DRV: Array, chunk: tuple[Array, ...]) -> tuple[Array, Array]:
        hidden_KBD, target_KB, *stats = sharding.gather_rows(chunk)
        max_KB1, log_sum_KB1, entropy_KB1, d_logp_KB1, d_entropy_KB1 = (stat[..., None] for stat in stats)
        logp_KBV = _logits(hidden_KBD, sharded_head_DV, temperature) - max_KB1 - log_sum_KB1
        p_KBV = jnp.exp(logp_KBV)
        d_logit_KBV = d_logp_KB1 * (_is_target(target_KB, logp_KBV) - p_KBV)
        d_logit_KBV -= d_entropy_KB1 * p_KBV * (logp_KBV + entropy_KB1)
        d_logit_KBV = (d_logit_KBV / temperature).astype(hidden_KBD.dtype)
        d_hidden_KBD = _matmul("kbv,dv->kbd", d_logit_KBV, sharded_head_DV.astype(hidden_KBD.dtype))
        (d_hidden_KBD,) = sharding.shard_rows((d_hidden_KBD.astype(hidden_KBD.dtype),))
        return _accumulate_head_gradient(d_head_DRV, hidden_KBD, d_logit_KBV), d_hidden_KBD

    width, vocabulary = head_DV.shape
    blocks = _num_blocks(width, sharding.columns * target_TB.shape[1])
    zeros_DRV = jnp.zeros((width // blocks, blocks, vocabulary), jnp.float32)
    arrays_T = (hidden_TBD, target_TB, *softmax_stats, *gradients)
    d_head_DRV, d_hidden_TBD = _scan_chunks(body, zeros_DRV, sharding.columns, arrays_T)
    return d_hidden_TBD, d_head_DRV.reshape(head_DV.shape).astype(head_DV.dtype), None, jnp.zeros_like(temperature)


_logp = jax.custom_vjp(_logp_primal, nondiff_argnums=(0,))
_logp.defvjp(_logp_forward, _logp_backward)


def _logits(hidden_KBD: Array, head_DV: Array, temperature: Array) -> Array:
    return _matmul("kbd,dv->kbv", hidden_KBD, head_DV.astype(hidden_KBD.dtype)) / temperature


def _is_target(target_KB: Array, like_KBV: Array) -> Array:
    """One-hot by comparison, not a gather: it fuses with the sum and works on a sharded vocabulary."""
    return target_KB[..., None] == jnp.arange(like_KBV.shape[-1])[None, None]


def _matmul(axes: str, left: Array, right: Array) -> Array:
    return jnp.einsum(axes, left, right, preferred_element_type=jnp.float32)


def _accumulate_head_gradient(total_DRV: Array, hidden_KBD: Array, d_logit_KBV: Array) -> Array:
    """Adds hidden^T @ d_logit to the gradient of the head in place, one of R interleaved blocks of D at a time.

    A block is every R-th row of the head, so that a sharded D stays sharded.
    """
    num_rows, blocks, _ = total_DRV.shape
    hidden_KBDR = hidden_KBD.reshape(*hidden_KBD.shape[:2], num_rows, blocks)

    def add(block: Array, total_DRV: Array) -> Array:
        return total_DRV.at[:, block].add(_matmul("kbd,kbv->dv", hidden_KBDR[..., block], d_logit_KBV))

    return jax.lax.fori_loop(0, blocks, add, total_DRV)


def _num_blocks(width: int, num_tokens: int) -> int:
    """The least number of equal blocks of D whose products take at most half the memory of a chunk's logits."""
    rows = next(rows for rows in range(width, 0, -1) if width % rows == 0 and rows <= max(num_tokens // 2, 1))
    return width // rows


def _scan_chunks(body: Callable, carry: Any, columns: int, arrays_T: tuple[Array, ...]) -> tuple[Any, Any]:
    """Scans over chunks of at most `columns` columns; the last chunk is padded with zeros."""
    length = arrays_T[0].shape[0]
    num_chunks = -(-length // columns)
    columns = -(-length // num_chunks)

    def split(array_T: Array) -> Array:
        padding = [(0, num_chunks * columns - length)] + [(0, 0)] * (array_T.ndim - 1)
        return jnp.pad(array_T, padding).reshape(num_chunks, columns, *array_T.shape[1:])

    carry, parts = jax.lax.scan(body, carry, jax.tree.map(split, arrays_T))
    return carry, jax.tree.map(lambda part: part.reshape(-1, *part.shape[2:])[:length], parts)
