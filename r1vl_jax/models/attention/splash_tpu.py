"""Attention on TPU: the splash kernel that ships with JAX, which never writes scores to memory.

The compiler does not divide a kernel over devices, so on a mesh it runs under `shard_map`: each device attends for its
own rows and its own heads, which needs no word from another.
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

_LANES = 128  # columns are padded to a multiple of this
_BLOCKS = (512, 384, 256, 128)  # queries and keys whose scores exist at one time, on the chip


def splash_attention(
    query_BTNH: Float[Array, "B T N H"],
    key_BTKH: Float[Array, "B T K H"],
    value_BTKH: Float[Array, "B T K H"],
    segment_BT: Int[Array, "B T"],
    *,
    is_causal: bool,
    branches: SharedPrefix | None = None,
    mesh: Mesh | None,
    interpret: bool = False,
) -> Float[Array, "B T N H"]:
    """`attention.attention` among the columns of one sequence.

    Args:
        mesh: rows lie over its (data, fsdp) if they divide so, heads over its tensor axis; None is one device.
        interpret: computes what the kernel would on whatever device there is, slowly; for tests.
    """
    mask = _mask(query_BTNH.shape[1], is_causal=is_causal, branches=branches)
    attend = partial(_attend, mask=mask, interpret=interpret)
    if mesh is not None:
        is_divided = query_BTNH.shape[0] % num_batch_shards(mesh) == 0
        rows = PartitionSpec(BATCH_AXES if is_divided else None)
        heads = PartitionSpec(*rows, None, "tensor")
        attend = jax.shard_map(
            attend,
            mesh=mesh,
            in_specs=(heads, heads, heads, rows),
            out_specs=heads,
            check_vma=False,  # kernels do not tell over which axes their results vary
        )
    return attend(query_BTNH, key_BTKH, value_BTKH, segment_BT)


def _attend(
    query_BTNH: Array, key_BTKH: Array, value_BTKH: Array, segment_BT: Array, *, mask: masks.Mask, interpret: bool
) -> Array:
    length = query_BTNH.shape[1]
    padding = mask.shape[0] - length

    def padded(array_BT: Array) -> Array:
        return jnp.pad(array_BT, ((0, 0), (0, padding), *((0, 0),) * (array_BT.ndim - 2)))

    # The kernel's order: heads before columns.
    query_BNTH, key_BKTH, value_BKTH = (
        jnp.swapaxes(padded(array), 1, 2) for array in (query_BTNH, key_BTKH, value_BTKH)
    )
    scale = query_BNTH.shape[-1] ** -0.5
    segment = padded(segment_BT)  # padding sees padding here; what it gets is thrown away
    attend = _kernel(query_BNTH.shape[1], mask, interpret=interpret)
    output_BNTH = jax.vmap(attend)(query_BNTH * scale, key_BKTH, value_BKTH, kernel.SegmentIds(segment, segment))
    output_BTNH = jnp.swapaxes(output_BNTH, 1, 2)[:, :length]
    return jnp.where(segment_BT[:, :, None, None] != 0, output_BTNH, 0).astype(query_BTNH.dtype)


@dataclass(frozen=True)
class _SharedPrefixMask(masks.Mask):
    """Who sees whom along a stem and its branches; columns past the last branch see themselves and the stem.

    Attributes:
        size: columns, padding included.
        stem: columns before the first branch.
    """

    size: int
    stem: int
    branch_length: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.size, self.size

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        query, key = (np.arange(self.size)[part] for part in index)
        branch_of_query, branch_of_key = ((column - self.stem) // self.branch_length for column in (query, key))
        is_shared = (key < self.stem)[None] | (branch_of_query[:, None] == branch_of_key[None])
        return is_shared & (key[None] <= query[:, None])


def _mask(length: int, *, is_causal: bool, branches: SharedPrefix | None) -> masks.Mask:
    """For so many columns and the padding that the kernel needs behind them."""
    size = length + -length % _LANES
    if branches is not None:
        return _SharedPrefixMask(size, branches.prefix_length(length), branches.length)
    return masks.CausalMask((size, size)) if is_causal else masks.FullMask((size, size))


def _kernel(num_heads: int, mask: masks.Mask, *, interpret: bool) -> Callable[..., Array]:
    block = next(size for size in _BLOCKS if mask.shape[0] % size == 0)
    blocks = kernel.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    heads = masks.MultiHeadMask([mask] * num_heads)
    attend = kernel.make_splash_mha(heads, block_sizes=blocks, head_shards=1, q_seq_shards=1, interpret=interpret)
    return cast(Callable[..., Array], attend)  # which could return residuals too
