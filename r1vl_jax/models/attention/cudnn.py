"""Attention on GPU by cuDNN's fused (flash) attention, through `jax.nn.dot_product_attention`.

cuDNN takes a mask only as a bias array [T, S] that is added to the scores, and reading it halves the speed. So no mask
is passed:

- Causal attention needs no segment ids, only padding masked out. A permutation moves the padding after all real
  tokens, where causality hides it.
- Bidirectional attention encodes segment ids in the head dimension. Each of the 24 bits of a query's segment id is
  appended to the query as a component +c or -c, likewise for keys. Then a query and a key of the same segment have all
  their scores raised by 24 c^2, and those of another segment by at least 2 c^2 less, so after softmax their weight is
  exp(-2 c^2 / sqrt(H)) or less, which is 0 unless the original scores differ by hundreds.

      query | q_1 ... q_H | +c -c -c ... |     key | k_1 ... k_H | +c -c +c ... |     value | v_1 ... v_H | 0 ... 0 |
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from r1vl_jax.models.attention.shared_prefix import SharedPrefix

_SEGMENT_BITS = 24  # of a segment id; a multiple of 8, as head widths must be
# c, exact in bfloat16. At a head width of 80, scores of other segments are 916 lower, and float32 scores, which are
# raised to 11,000, are still accurate to 1e-3.
_BIT_VALUE = 64.0
_MAX_HEAD_DIM = 128

_Implementation = Literal["xla", "cudnn"]  # of `jax.nn.dot_product_attention`


def is_supported(query_BTNH: Array, *, is_causal: bool) -> bool:
    """Whether cuDNN has a forward and a backward kernel for this dtype and, segment bits included, this head width."""
    head_dim = query_BTNH.shape[-1] + (0 if is_causal else _SEGMENT_BITS)
    return query_BTNH.dtype in (jnp.bfloat16, jnp.float16) and head_dim % 8 == 0 and head_dim <= _MAX_HEAD_DIM


def cudnn_attention(
    query_BTNH: Float[Array, "B T N H"],
    key_BTKH: Float[Array, "B T K H"],
    value_BTKH: Float[Array, "B T K H"],
    segment_BT: Int[Array, "B T"],
    *,
    is_causal: bool,
    shared_prefix: SharedPrefix | None = None,
    implementation: _Implementation = "cudnn",
) -> Float[Array, "B T N H"]:
    """`attention.attention` by cuDNN, where `is_supported`.

    Args:
        segment_BT: segment ids below 2**24; causal attention takes all that is not padding as one segment.
        implementation: "xla" computes the same on any device; for tests.
    """
    if shared_prefix is not None:
        return _shared_prefix_attention(query_BTNH, key_BTKH, value_BTKH, segment_BT, shared_prefix, implementation)
    attend = _causal_attention if is_causal else _segment_attention
    output_BTNH = attend(query_BTNH, key_BTKH, value_BTKH, segment_BT, implementation)
    return jnp.where((segment_BT != 0)[:, :, None, None], output_BTNH, 0)


def _shared_prefix_attention(
    query_BTNH: Array,
    key_BTKH: Array,
    value_BTKH: Array,
    segment_BT: Array,
    shared_prefix: SharedPrefix,
    implementation: _Implementation,
) -> Array:
    """Every completion as a row after a copy of the prefix; the prefix's output is taken from the first of them.

    This computes the prefix's attention once for each completion. A kernel for the completions' queries alone, against
    all keys, would need a mask again.
    """
    prefix_length = shared_prefix.prefix_length(segment_BT.shape[1])
    output = cudnn_attention(
        *map(shared_prefix.repeat_prefix, (query_BTNH, key_BTKH, value_BTKH, segment_BT)),
        is_causal=True,
        implementation=implementation,
    )
    prefix_output = output[:: shared_prefix.num_completions, :prefix_length]
    completion_output = output[:, prefix_length:].reshape(query_BTNH[:, prefix_length:].shape)
    return jnp.concatenate([prefix_output, completion_output], axis=1)


def _causal_attention(
    query_BTNH: Array, key_BTKH: Array, value_BTKH: Array, segment_BT: Array, implementation: _Implementation
) -> Array:
    # Stable, so that real tokens keep their order and causality stays what it was.
    order_BT = jnp.argsort(segment_BT == 0, axis=1, stable=True)
    inverse_BT = jnp.argsort(order_BT, axis=1)
    inputs = (_permute_columns(array, order_BT, inverse_BT) for array in (query_BTNH, key_BTKH, value_BTKH))
    # Padding comes last: it may attend to real tokens, but not they to it. The caller zeroes its outputs.
    output_BTNH = jax.nn.dot_product_attention(*inputs, is_causal=True, implementation=implementation)
    return _permute_columns(output_BTNH, inverse_BT, order_BT)


def _segment_attention(
    query_BTNH: Array, key_BTKH: Array, value_BTKH: Array, segment_BT: Array, implementation: _Implementation
) -> Array:
    bit_BTC = (segment_BT[:, :, None] >> jnp.arange(_SEGMENT_BITS)[None, None]) & 1
    # +c and -c, not c and 0: with 0, a query of segment 0b01 could not tell keys of segments 0b01 and 0b11 apart.
    code_BTC = jnp.where(bit_BTC == 1, _BIT_VALUE, -_BIT_VALUE).astype(query_BTNH.dtype)

    def append(array_BTNH: Array, code_BTC: Array) -> Array:
        code_BTNC = jnp.broadcast_to(code_BTC[:, :, None], (*array_BTNH.shape[:3], _SEGMENT_BITS))
        return jnp.concatenate([array_BTNH, code_BTNC], axis=-1)

    head_dim = query_BTNH.shape[-1]
    output = jax.nn.dot_product_attention(
        append(query_BTNH, code_BTC),
        append(key_BTKH, code_BTC),
        append(value_BTKH, jnp.zeros_like(code_BTC)),  # the kernel wants one head width for all three
        scale=head_dim**-0.5,
        implementation=implementation,
    )
    return output[..., :head_dim]


@jax.custom_vjp
def _permute_columns(array_BT: Array, order_BT: Array, inverse_BT: Array) -> Array:
    """Columns of every row in another order. Its gradient is a gather by the inverse, where autodiff would scatter."""
    del inverse_BT
    return jnp.take_along_axis(array_BT, order_BT[:, :, None, None], axis=1)


def _permute_columns_fwd(array_BT: Array, order_BT: Array, inverse_BT: Array) -> tuple[Array, tuple[Array, Array]]:
    return _permute_columns(array_BT, order_BT, inverse_BT), (order_BT, inverse_BT)


def _permute_columns_bwd(residuals: tuple[Array, Array], gradient_BT: Array) -> tuple[Array, None, None]:
    order_BT, inverse_BT = residuals
    return _permute_columns(gradient_BT, inverse_BT, order_BT), None, None


_permute_columns.defvjp(_permute_columns_fwd, _permute_columns_bwd)
