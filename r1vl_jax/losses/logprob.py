"""Log-probabilities of given tokens, without ever holding the logits of a whole batch.

At 8,192 tokens and a vocabulary of 152,064 the float32 logits alone are 4.6 GiB; a chunk of 1,024 tokens is 0.6.
Inside this module tokens stand in columns of B, [T, B], so that an axis B that is spread over devices stays so, and
K is the number of columns of a chunk.

On a mesh, every device has the logits of all tokens of a chunk for its own part of the vocabulary. So hidden states
travel, a chunk at a time, and the head and its gradient do not.
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
    """Log-probability of each target token, and the entropy of the distribution that it is a token of.

        logp = log softmax(hidden @ head / temperature)[target]        entropy = - sum_v p_v log p_v

    Products are taken in the dtype of `hidden` and summed in float32; logits, softmax and the sum of the head's
    gradient over chunks are float32 always. The backward pass computes the logits of a chunk again; with a bfloat16
    `hidden` it rounds their gradient to bfloat16 before the products.

    Args:
        hidden_BTD: final hidden states; position t predicts `target_BT[:, t]`.
        head_DV: output projection.
        target_BT: token ids in [0, V). Another id, as the -100 of some libraries, counts as the nearest: its place
            must be masked out of the loss.
        chunk_size: how many tokens' worth of logits a device holds at one time. Chunks are whole columns of B tokens,
            and at least one.
        temperature: divides the logits; a constant to the gradient.
        mesh: whose axes (data, fsdp) divide B and (fsdp, tensor) share V; None leaves it to the compiler.

    Returns:
        Log-probability and entropy in nats, float32. Both are differentiable once, in reverse mode, to `hidden_BTD` and
        `head_DV`.
    """
    if target_BT.size == 0:
        return jnp.zeros(target_BT.shape), jnp.zeros(target_BT.shape)
    layout = _Layout.on(mesh, chunk_size, target_BT.shape[0], head_DV.shape[1])
    hidden_TBD, target_TB = jnp.swapaxes(hidden_BTD, 0, 1), jnp.clip(target_BT.T, 0, head_DV.shape[1] - 1)
    logp_TB, entropy_TB = _score(layout, hidden_TBD, head_DV, target_TB, jnp.float32(temperature))
    return logp_TB.T, entropy_TB.T


@dataclass(frozen=True)
class _Layout:
    """Chunks, and who computes what of them.

    Attributes:
        columns: of a chunk.
        mesh: None leaves it to the compiler.
        vocabulary_axes: of the mesh, which share V; where they do not divide it, fewer do.
    """

    columns: int
    mesh: Mesh | None = None
    vocabulary_axes: tuple[str, ...] = ()

    @classmethod
    def on(cls, mesh: Mesh | None, chunk_size: int, num_rows: int, vocabulary_size: int) -> "_Layout":
        if mesh is None:
            return cls(max(1, chunk_size // num_rows))
        candidates = (("fsdp", "tensor"), ("tensor",), ())
        axes = next(a for a in candidates if vocabulary_size % math.prod(mesh.shape[axis] for axis in a) == 0)
        num_sharers = math.prod(size for axis, size in mesh.shape.items() if axis in (*axes, *BATCH_AXES))
        return cls(max(1, chunk_size * num_sharers // num_rows), mesh, axes)

    def head(self, head_DV: Array) -> Array:
        """Every device has its part of the vocabulary."""
        return self._place(head_DV, None, self.vocabulary_axes)

    def met(self, chunk: tuple[Array, ...]) -> tuple[Array, ...]:
        """Arrays [K, B, ...] of all tokens that a device has logits of: those of the devices it shares V with."""
        axes = tuple(axis for axis in BATCH_AXES if axis not in self.vocabulary_axes)
        return tuple(self._place(array_KB, None, axes) for array_KB in chunk)

    def own(self, chunk: tuple[Array, ...]) -> tuple[Array, ...]:
        """Arrays [K, B, ...] of a device's own rows again."""
        return tuple(self._place(array_KB, None, BATCH_AXES) for array_KB in chunk)

    def _place(self, array: Array, *axes: tuple[str, ...] | None) -> Array:
        if self.mesh is None:
            return array
        spec = PartitionSpec(*(entry or None for entry in axes))
        return jax.lax.with_sharding_constraint(array, NamedSharding(self.mesh, spec))


def _values(
    layout: _Layout, hidden_TBD: Array, head_DV: Array, target_TB: Array, temperature: Array
) -> tuple[Array, Array]:
    return _score_forward(layout, hidden_TBD, head_DV, target_TB, temperature)[0]


def _score_forward(
    layout: _Layout, hidden_TBD: Array, head_DV: Array, target_TB: Array, temperature: Array
) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
    """Log-probability and entropy, and what the backward pass needs beside the inputs: three numbers a token."""
    own_head_DV = layout.head(head_DV)

    def body(_: None, chunk: tuple[Array, ...]) -> tuple[None, tuple[Array, ...]]:
        hidden_KBD, target_KB = layout.met(chunk)
        logit_KBV = _logits(hidden_KBD, own_head_DV, temperature)
        is_target_KBV = _is_target(target_KB, logit_KBV)
        target_KB1 = jnp.sum(jnp.where(is_target_KBV, logit_KBV, 0.0), axis=-1, keepdims=True)
        # The target is one of those the maximum is of. Named here, it makes XLA take the sums one after another, each
        # with one temporary of the size of the logits.
        max_KB1 = jnp.maximum(jnp.max(logit_KBV, axis=-1, keepdims=True), target_KB1)
        log_sum_KB1 = jnp.log(jnp.sum(jnp.exp(logit_KBV - max_KB1), axis=-1, keepdims=True))
        logp_KB = (target_KB1 - max_KB1 - log_sum_KB1)[..., 0]
        logp_KBV = logit_KBV - max_KB1 - log_sum_KB1
        entropy_KB = -jnp.sum(jnp.exp(logp_KBV) * logp_KBV, axis=-1)
        return None, layout.own((logp_KB, entropy_KB, max_KB1[..., 0], log_sum_KB1[..., 0]))

    _, (logp_TB, entropy_TB, max_TB, log_sum_TB) = _scan_chunks(body, None, layout.columns, (hidden_TBD, target_TB))
    kept = (hidden_TBD, head_DV, target_TB, temperature, max_TB, log_sum_TB, entropy_TB)
    return (logp_TB, entropy_TB), kept


def _score_backward(
    layout: _Layout, kept: tuple[Array, ...], gradients: tuple[Array, Array]
) -> tuple[Array, Array, None, Array]:
    """What flows back from log-probability and entropy to hidden states and head.

    d logp / d logit_v = [v is the target] - p_v          d entropy / d logit_v = - p_v (log p_v + entropy)
    """
    hidden_TBD, head_DV, target_TB, temperature, *of_softmax = kept
    own_head_DV = layout.head(head_DV)

    def body(to_head_DRV: Array, chunk: tuple[Array, ...]) -> tuple[Array, Array]:
        hidden_KBD, target_KB, *numbers = layout.met(chunk)
        max_KB1, log_sum_KB1, entropy_KB1, of_logp_KB1, of_entropy_KB1 = (number[..., None] for number in numbers)
        logp_KBV = _logits(hidden_KBD, own_head_DV, temperature) - max_KB1 - log_sum_KB1
        p_KBV = jnp.exp(logp_KBV)
        to_logit_KBV = of_logp_KB1 * (_is_target(target_KB, logp_KBV) - p_KBV)
        to_logit_KBV -= of_entropy_KB1 * p_KBV * (logp_KBV + entropy_KB1)
        to_logit_KBV = (to_logit_KBV / temperature).astype(hidden_KBD.dtype)
        to_hidden_KBD = _dot("kbv,dv->kbd", to_logit_KBV, own_head_DV.astype(hidden_KBD.dtype))
        (to_hidden_KBD,) = layout.own((to_hidden_KBD.astype(hidden_KBD.dtype),))
        return _add_products(to_head_DRV, hidden_KBD, to_logit_KBV), to_hidden_KBD

    width, vocabulary = head_DV.shape
    blocks = _num_blocks(width, layout.columns * target_TB.shape[1])
    zeros_DRV = jnp.zeros((width // blocks, blocks, vocabulary), jnp.float32)
    arrays_T = (hidden_TBD, target_TB, *of_softmax, *gradients)
    to_head_DRV, to_hidden_TBD = _scan_chunks(body, zeros_DRV, layout.columns, arrays_T)
    return to_hidden_TBD, to_head_DRV.reshape(head_DV.shape).astype(head_DV.dtype), None, jnp.zeros_like(temperature)


_score = jax.custom_vjp(_values, nondiff_argnums=(0,))
_score.defvjp(_score_forward, _score_backward)


def _logits(hidden_KBD: Array, head_DV: Array, temperature: Array) -> Array:
    return _dot("kbd,dv->kbv", hidden_KBD, head_DV.astype(hidden_KBD.dtype)) / temperature


def _is_target(target_KB: Array, like_KBV: Array) -> Array:
    """A comparison, not a gather: it fuses with a sum and splits over a sharded vocabulary."""
    return target_KB[..., None] == jnp.arange(like_KBV.shape[-1])[None, None]


def _dot(axes: str, left: Array, right: Array) -> Array:
    return jnp.einsum(axes, left, right, preferred_element_type=jnp.float32)


def _add_products(total_DRV: Array, hidden_KBD: Array, to_logit_KBV: Array) -> Array:
    """Adds hidden^T @ to_logit to the gradient of the head, in place, one of R interleaved blocks of D at a time.

    A block is every R-th row, so that D stays divided over devices as it was.
    """
    num_rows, blocks, _ = total_DRV.shape
    hidden_KBDR = hidden_KBD.reshape(*hidden_KBD.shape[:2], num_rows, blocks)

    def add(block: Array, total_DRV: Array) -> Array:
        return total_DRV.at[:, block].add(_dot("kbd,kbv->dv", hidden_KBDR[..., block], to_logit_KBV))

    return jax.lax.fori_loop(0, blocks, add, total_DRV)


def _num_blocks(width: int, num_tokens: int) -> int:
    """The fewest equal blocks of D whose products take at most half the memory of a chunk's logits."""
    rows = next(rows for rows in range(width, 0, -1) if width % rows == 0 and rows <= max(num_tokens // 2, 1))
    return width // rows


def _scan_chunks(body: Callable, carry: Any, columns: int, arrays_T: tuple[Array, ...]) -> tuple[Any, Any]:
    """Scans over so many columns at a time; the last chunk is filled up with zeros."""
    length = arrays_T[0].shape[0]
    num_chunks = -(-length // columns)
    columns = -(-length // num_chunks)

    def split(array_T: Array) -> Array:
        padding = [(0, num_chunks * columns - length)] + [(0, 0)] * (array_T.ndim - 1)
        return jnp.pad(array_T, padding).reshape(num_chunks, columns, *array_T.shape[1:])

    carry, parts = jax.lax.scan(body, carry, jax.tree.map(split, arrays_T))
    return carry, jax.tree.map(lambda part: part.reshape(-1, *part.shape[2:])[:length], parts)
