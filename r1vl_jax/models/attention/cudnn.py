"""Attention on GPU: cuDNN's kernels, which never write scores to memory, as JAX offers them.

They read a mask as an array of numbers added to the scores, which halves their speed. So none is given to them:

- Causal attention knows no segments, only padding. That is moved behind everything else, where nobody sees it.
- Otherwise the number of a query's segment is written behind its width, and that of a key behind the key's: a bit is +c
  or -c. Products of queries and keys rise by c^2 for every bit, and fall short of it by 2 c^2 for every one that
  differs. Softmax leaves nothing of such a score, unless it would be larger than all that are seen by hundreds.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from r1vl_jax.models.attention.shared_prefix import SharedPrefix

_BITS = 24  # of a segment's number; widths are multiples of 8
_BIT = 64.0  # exact in bfloat16; scores of 80 numbers fall short by 916 then, and are right to 1e-3
_WIDEST = 128

_attend: Any = jax.nn.dot_product_attention  # its types tell apart what is one thing here


def is_supported(query_BTNH: Array, *, is_causal: bool) -> bool:
    """Whether there is a kernel, with its gradient, for these queries: of 16 bits, and not too wide."""
    width = query_BTNH.shape[-1] + (0 if is_causal else _BITS)
    return query_BTNH.dtype in (jnp.bfloat16, jnp.float16) and width % 8 == 0 and width <= _WIDEST


def cudnn_attention(
    query_BTNH: Float[Array, "B T N H"],
    key_BTKH: Float[Array, "B T K H"],
    value_BTKH: Float[Array, "B T K H"],
    segment_BT: Int[Array, "B T"],
    *,
    is_causal: bool,
    branches: SharedPrefix | None = None,
    implementation: str = "cudnn",
) -> Float[Array, "B T N H"]:
    """`attention.attention` for what is suited.

    Args:
        segment_BT: below 2**24; causal attention takes all that is not padding as one segment.
        implementation: "xla" computes the same on whatever device there is; for tests.
    """
    if branches is not None:
        return _shared_prefix_attention(query_BTNH, key_BTKH, value_BTKH, segment_BT, branches, implementation)
    attend = _causal if is_causal else _within_segments
    output_BTNH = attend(query_BTNH, key_BTKH, value_BTKH, segment_BT, implementation)
    return jnp.where((segment_BT != 0)[:, :, None, None], output_BTNH, 0)


def _shared_prefix_attention(
    query_BTNH: Array,
    key_BTKH: Array,
    value_BTKH: Array,
    segment_BT: Array,
    branches: SharedPrefix,
    implementation: str,
) -> Array:
    """Every branch as a row of its own behind the whole stem, which the first of them attends for, too.

    Queries of a stem are read as often as there are branches behind it. A kernel for queries of the last columns alone
    would want a mask again.
    """
    stem = branches.prefix_length(segment_BT.shape[1])
    output = cudnn_attention(
        *map(branches.repeat_prefix, (query_BTNH, key_BTKH, value_BTKH, segment_BT)),
        is_causal=True,
        implementation=implementation,
    )
    of_stem = output[:: branches.num_completions, :stem]
    return jnp.concatenate([of_stem, output[:, stem:].reshape(query_BTNH[:, stem:].shape)], axis=1)


def _causal(query_BTNH: Array, key_BTKH: Array, value_BTKH: Array, segment_BT: Array, implementation: str) -> Array:
    order_BT = jnp.argsort(segment_BT == 0, axis=1, stable=True)
    place_BT = jnp.argsort(order_BT, axis=1)
    inputs = (_permuted(array, order_BT, place_BT) for array in (query_BTNH, key_BTKH, value_BTKH))
    output_BTNH = _attend(*inputs, is_causal=True, implementation=implementation)
    return _permuted(output_BTNH, place_BT, order_BT)


def _within_segments(
    query_BTNH: Array, key_BTKH: Array, value_BTKH: Array, segment_BT: Array, implementation: str
) -> Array:
    bit_BTC = (segment_BT[:, :, None] >> jnp.arange(_BITS)[None, None]) & 1
    code_BTC = jnp.where(bit_BTC == 1, _BIT, -_BIT).astype(query_BTNH.dtype)

    def behind(array_BTNH: Array, added_BTC: Array) -> Array:
        added_BTNC = jnp.broadcast_to(added_BTC[:, :, None], (*array_BTNH.shape[:3], _BITS))
        return jnp.concatenate([array_BTNH, added_BTNC], axis=-1)

    width = query_BTNH.shape[-1]
    output = _attend(
        behind(query_BTNH, code_BTC),
        behind(key_BTKH, code_BTC),
        behind(value_BTKH, jnp.zeros_like(code_BTC)),
        scale=width**-0.5,
        implementation=implementation,
    )
    return output[..., :width]


@jax.custom_vjp
def _permuted(array_BT: Array, order_BT: Array, inverse_BT: Array) -> Array:
    """Columns of every row in another order. On the way back the other order is gathered, where JAX would scatter."""
    del inverse_BT
    return jnp.take_along_axis(array_BT, order_BT[:, :, None, None], axis=1)


def _permuted_forward(array_BT: Array, order_BT: Array, inverse_BT: Array) -> tuple[Array, tuple[Array, Array]]:
    return _permuted(array_BT, order_BT, inverse_BT), (order_BT, inverse_BT)


def _permuted_backward(kept: tuple[Array, Array], gradient_BT: Array) -> tuple[Array, None, None]:
    order_BT, inverse_BT = kept
    return _permuted(gradient_BT, inverse_BT, order_BT), None, None


_permuted.defvjp(_permuted_forward, _permuted_backward)
