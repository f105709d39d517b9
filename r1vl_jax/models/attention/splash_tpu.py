"""Attention on TPU by splash attention, the block-sparse flash attention kernel that ships with JAX (Pallas).

It never writes scores to HBM, and skips the blocks of queries and keys that its mask rules out entirely: for that the
mask is a static object, known when the kernel is built, and segment ids, known at run time, are passed separately.

XLA cannot partition a custom kernel, so on a mesh it runs inside `shard_map`: each device attends for its own rows and
its own heads, without communication.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from r1vl_jax.arrays import BATCH_AXES
from r1vl_jax.models.attention.shared_prefix import SharedPrefix
from r1vl_jax.sharding.batch import num_batch_shards

_LANES = 128  # of a TPU's vector register; sequences are padded to a multiple of it
_BLOCK_SIZES = (512, 384, 256, 128)  # queries, and keys, of a block in VMEM; the largest that divides the columns


def splash_attention(
    query_BTNH: Float[Array, "B T N H"],
    key_BTKH: Float[Array, "B T K H"],
    value_BTKH: Float[Array, "B T K H"],
    segment_BT: Int[Array, "B T"],
    *,
    is_causal: bool,
    shared_prefix: SharedPrefix | None = None,
    mesh: Mesh | None,
    interpret: bool = False,
) -> Float[Array, "B T N H"]:
    """`attention.attention` by splash attention, forward and backward.

    Args:
        mesh: rows are sharded over (data, fsdp), if these divide them, and heads over tensor; None is one device.
        interpret: runs the kernel in Pallas' interpreter, slowly, on any device; for tests.
    """
    mask = _make_mask(query_BTNH.shape[1], is_causal=is_causal, shared_prefix=shared_prefix)
    attend = partial(_attend, mask=mask, interpret=interpret)
    if mesh is not None:
        # A batch that the mesh cannot shard evenly is computed by all devices.
        rows_are_divisible = query_BTNH.shape[0] % num_batch_shards(mesh) == 0
        rows = PartitionSpec(BATCH_AXES if rows_are_divisible else None)
        heads = PartitionSpec(*rows, None, "tensor")
        attend = jax.shard_map(
            attend,
            mesh=mesh,
            in_specs=(heads, heads, heads, rows),
            out_specs=heads,
            check_vma=False,  # pallas_call does not declare over which mesh axes its results vary
        )
    return attend(query_BTNH, key_BTKH, value_BTKH, segment_BT)


def _attend(
    query_BTNH: Array, key_BTKH: Array, value_BTKH: Array, segment_BT: Array, *, mask: masks.Mask, interpret: bool
) -> Array:
    length = query_BTNH.shape[1]
    padding = mask.shape[0] - length

    def pad(array_BT: Array) -> Array:
        return jnp.pad(array_BT, ((0, 0), (0, padding), *((0, 0),) * (array_BT.ndim - 2)))

    # The kernel takes one sequence [N, T, H], heads before columns; `vmap` adds the rows.
    query_BNTH, key_BKTH, value_BKTH = (jnp.swapaxes(pad(array), 1, 2) for array in (query_BTNH, key_BTKH, value_BTKH))
    scale = query_BNTH.shape[-1] ** -0.5  # the kernel does not scale
    segment = pad(segment_BT)  # padding attends to padding (segment 0) here; its output is replaced by zeros below
    attend = _make_splash_kernel(query_BNTH.shape[1], mask, interpret=interpret)
    output_BNTH = jax.vmap(attend)(query_BNTH * scale, key_BKTH, value_BKTH, kernel.SegmentIds(segment, segment))
    output_BTNH = jnp.swapaxes(output_BNTH, 1, 2)[:, :length]
    return jnp.where(segment_BT[:, :, None, None] != 0, output_BTNH, 0).astype(query_BTNH.dtype)


@dataclass(frozen=True)
class _SharedPrefixMask(masks.Mask):
    """The mask shown at `SharedPrefix`, evaluated lazily for one block of queries and keys.

    Padding columns after the last completion count as further completions: they see the prefix and themselves.

    Attributes:
        size: columns, padding included.
        prefix_length: columns before the first completion.
    """

    size: int
    prefix_length: int
    completion_length: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.size, self.size

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        query, key = (np.arange(self.size)[part] for part in index)
        # Prefix columns get negative numbers here, which no completion has.
        completion_of_query, completion_of_key = (
            (column - self.prefix_length) // self.completion_length for column in (query, key)
        )
        is_same = (key < self.prefix_length)[None] | (completion_of_query[:, None] == completion_of_key[None])
        return is_same & (key[None] <= query[:, None])


def _make_mask(length: int, *, is_causal: bool, shared_prefix: SharedPrefix | None) -> masks.Mask:
    """The static mask over the columns, padded to a multiple of the lanes."""
    size = length + -length % _LANES
    if shared_prefix is not None:
        return _SharedPrefixMask(size, shared_prefix.prefix_length(length), shared_prefix.completion_length)
    return masks.CausalMask((size, size)) if is_causal else masks.FullMask((size, size))


def _make_splash_kernel(num_heads: int, mask: masks.Mask, *, interpret: bool) -> Callable[..., Array]:
    # Padding to the largest block size could add 511 columns; some smaller size divides any multiple of 128.
    block = next(size for size in _BLOCK_SIZES if mask.shape[0] % size == 0)
    # One size for the forward kernel and for both backward kernels, of dK and dV (dkv) and of dQ (dq).
    blocks = kernel.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    heads = masks.MultiHeadMask([mask] * num_heads)
    # "mha" also covers grouped-query attention: the kernel maps query heads to fewer key/value heads.
    attend = kernel.make_splash_mha(heads, block_sizes=blocks, head_shards=1, q_seq_shards=1, interpret=interpret)
    return cast(Callable[..., Array], attend)  # its type also allows a tuple with residuals
