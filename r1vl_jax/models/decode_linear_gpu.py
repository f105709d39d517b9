"""The linear layers of decoding on GPU, in Pallas kernels for Triton.

A decode step multiplies few rows, of one token each, with large weight matrices, so its time is that of reading the
weights. The kernels keep memory busy in two ways:

- Split-K. A program computes a tile of 64 output columns for all rows. Where a matrix has too few such tiles to occupy
  the device, the reduction over its K input dimensions is split, too: a program sums over a part of them and writes a
  float32 partial.

                        output columns ->
            K   | split 0, tile 0 | split 0, tile 1 | ...        each: partial [R, 64], all added up later
            |   | split 1, tile 0 | split 1, tile 1 | ...

- Fusion. The kernel that consumes a product sums its partials on loading: `fused_add_rms_norm` after the output and
  down projections, `qkv_heads_with_rope` after the QKV projection. A decoder layer takes ten launches, not sixteen.

Block sizes are named as for a blocked matmul [M, K] x [K, N]: BLOCK_N output columns, BLOCK_K inputs an iteration. All
M rows are in one tile, padded to a shape for tensor cores.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float

from r1vl_jax.models.attention.flash_decode_gpu import triton

_BLOCK_N = 64  # output columns of a program
_BLOCK_K = 64  # inputs (rows of the weight matrix) that are loaded and multiplied in one iteration
_MIN_K_BLOCKS = 6  # fewest iterations of a split, so that each program has enough to read
_MAX_PROGRAMS = 264  # most programs that K is split into: two for each of the 132 SMs of an H100 or H200
# Rows of x: tensor cores multiply tiles of at least 16 rows; the kernels were timed with up to 64.
_MIN_ROWS, _MAX_ROWS = 16, 64

SplitKPartials = Float[Array, "S R F"]  # of S splits, in float32; their sum is the product [R, F]


def is_supported(num_rows: int, dims: Sequence[int], *, head_dim: int, dtype: Any) -> bool:
    """Whether the kernels can be used: 16-bit dtype, few rows, widths of whole blocks, heads of a power of two."""
    return (
        triton is not None
        and dtype in (jnp.bfloat16, jnp.float16)
        and num_rows <= _MAX_ROWS
        and all(dim % _BLOCK_N == dim % _BLOCK_K == 0 for dim in dims)
        and head_dim in (32, 64, 128)
    )


def matmul_split_k(x_RD: Float[Array, "R D"], kernel_DF: Float[Array, "D F"]) -> SplitKPartials:
    """x @ kernel, as the float32 partials of its splits over D."""
    (num_rows, dim), num_tiles = x_RD.shape, kernel_DF.shape[1] // _BLOCK_N
    # More splits mean more programs, but also more partials to write and to read again.
    num_splits = _num_splits(dim // _BLOCK_K, num_tiles)
    blocks_per_split, padded_rows = dim // _BLOCK_K // num_splits, _padded_rows(num_rows)

    def matmul_kernel(x_ref: Any, kernel_ref: Any, partial_ref: Any) -> None:
        first_block = pl.program_id(1) * blocks_per_split
        (partial_RF,) = _matmul_k_range(
            x_ref, kernel_ref, num_rows=num_rows, first_block=first_block, num_blocks=blocks_per_split
        )
        _store_rows(partial_ref, partial_RF, num_rows=num_rows)

    # Every program sees all of x and its tile's columns of the weights; its blocks of K are picked in the kernel.
    return _pallas_call(
        matmul_kernel,
        grid=(num_tiles, num_splits),
        in_specs=[
            pl.BlockSpec((padded_rows, dim), lambda tile, split: (0, 0)),
            pl.BlockSpec((dim, _BLOCK_N), lambda tile, split: (0, tile)),
        ],
        out_specs=pl.BlockSpec((None, padded_rows, _BLOCK_N), lambda tile, split: (split, 0, tile)),
        out_shape=jax.ShapeDtypeStruct((num_splits, num_rows, kernel_DF.shape[1]), jnp.float32),
        name="matmul_split_k",
    )(x_RD, kernel_DF)


def swiglu(x_RD: Float[Array, "R D"], gate_DF: Float[Array, "D F"], up_DF: Float[Array, "D F"]) -> Float[Array, "R F"]:
    """silu(x @ gate) * (x @ up), both products and the gate in one kernel.

    D is not split: silu needs the whole sum, and an MLP is wide enough for its tiles to occupy the device.

    Source: Shazeer, GLU Variants Improve Transformer, 2020, https://arxiv.org/abs/2002.05202.
    """
    (num_rows, dim), num_tiles = x_RD.shape, gate_DF.shape[1] // _BLOCK_N
    padded_rows = _padded_rows(num_rows)

    def swiglu_kernel(x_ref: Any, gate_ref: Any, up_ref: Any, output_ref: Any) -> None:
        gate_RF, up_RF = _matmul_k_range(
            x_ref, gate_ref, up_ref, num_rows=num_rows, first_block=0, num_blocks=dim // _BLOCK_K
        )
        _store_rows(output_ref, jax.nn.silu(gate_RF) * up_RF, num_rows=num_rows)

    weight_spec = pl.BlockSpec((dim, _BLOCK_N), lambda tile: (0, tile))
    return _pallas_call(
        swiglu_kernel,
        grid=(num_tiles,),
        in_specs=[pl.BlockSpec((padded_rows, dim), lambda tile: (0, 0)), weight_spec, weight_spec],
        out_specs=pl.BlockSpec((padded_rows, _BLOCK_N), lambda tile: (0, tile)),
        out_shape=jax.ShapeDtypeStruct((num_rows, gate_DF.shape[1]), x_RD.dtype),
        name="swiglu",
    )(x_RD, gate_DF, up_DF)


def fused_add_rms_norm(
    x_RD: Float[Array, "R D"], residual: SplitKPartials, scale_D: Float[Array, " D"], *, epsilon: float
) -> tuple[Float[Array, "R D"], Float[Array, "R D"]]:
    """Adds a product to the residual stream and normalises the sum for the next layer; a program handles one row.

        h = x + sum_s residual[s]        h / sqrt(mean(h^2) + epsilon) * scale

    Args:
        residual: partials of the product that is added to x.

    Returns:
        The residual stream h, and its RMSNorm.
    """
    num_rows, dim = x_RD.shape
    # Triton's arrays have power-of-two sizes and a model's width may not be one: a row is processed in slices.
    slice_width = next(size for size in (512, 256, 128, 64) if dim % size == 0)
    slices = [pl.ds(first, slice_width) for first in range(0, dim, slice_width)]

    # The product is rounded to 16 bits before it is added, as in the unfused model; the norm is computed in float32.
    def add_rms_norm_kernel(x_ref: Any, residual_ref: Any, scale_ref: Any, sum_ref: Any, normed_ref: Any) -> None:
        sum_of_squares, sums = jnp.float32(0), []
        for columns in slices:
            sum_C = x_ref[columns] + _sum_partials(residual_ref, columns).astype(x_RD.dtype)
            sum_ref[columns] = sum_C
            sums.append(sum_C.astype(jnp.float32))
            sum_of_squares += jnp.sum(sums[-1] ** 2)
        inverse_rms = jax.lax.rsqrt(sum_of_squares / dim + epsilon)
        # Second pass, over the slices that are still in registers.
        for columns, sum_C in zip(slices, sums, strict=True):
            normed_C = sum_C * (inverse_rms * scale_ref[columns].astype(jnp.float32))
            normed_ref[columns] = normed_C.astype(x_RD.dtype)

    row_spec = pl.BlockSpec((None, dim), lambda row: (row, 0))
    return _pallas_call(
        add_rms_norm_kernel,
        grid=(num_rows,),
        in_specs=[
            row_spec,
            pl.BlockSpec((residual.shape[0], None, dim), lambda row: (0, row, 0)),
            pl.BlockSpec((dim,), lambda row: (0,)),
        ],
        out_specs=(row_spec, row_spec),
        out_shape=(jax.ShapeDtypeStruct(x_RD.shape, x_RD.dtype),) * 2,
        name="fused_add_rms_norm",
    )(x_RD, residual, scale_D)


def qkv_heads_with_rope(
    qkv: SplitKPartials,
    bias_F: Float[Array, " F"],
    cos_RC: Float[Array, "R H//2"],
    sin_RC: Float[Array, "R H//2"],
    *,
    num_kv_heads: int,
) -> tuple[Float[Array, "R N H"], Float[Array, "R K H"], Float[Array, "R K H"]]:
    """Sums the partials of the fused QKV projection, adds the bias, splits heads, applies RoPE to queries and keys.

    A program handles one head of one row; heads are in the order of the projection's columns:

        | N query heads | K key heads | K value heads |      each H wide

    Args:
        cos_RC, sin_RC: of the row's RoPE angles, see `rope.apply_rope`.
    """
    (num_splits, num_rows, _), half, dtype = qkv.shape, cos_RC.shape[1], bias_F.dtype
    num_heads = len(bias_F) // (2 * half) - 2 * num_kv_heads
    halves = pl.ds(0, half), pl.ds(half, half)

    def rope_kernel(
        qkv_ref: Any, bias_ref: Any, cos_ref: Any, sin_ref: Any, query_ref: Any, key_ref: Any, value_ref: Any
    ) -> None:
        head = pl.program_id(1)
        # Rounded to 16 bits between projection and rotation, as a separate projection's output would be.
        first_C, second_C = (
            (_sum_partials(qkv_ref, columns) + bias_ref[columns].astype(jnp.float32)).astype(dtype).astype(jnp.float32)
            for columns in halves
        )
        # [first, second] rotated by the angle: pairs are (i, i + H/2), see `rope.apply_rope`.
        cos_C, sin_C = cos_ref[...], sin_ref[...]
        rotated = first_C * cos_C - second_C * sin_C, second_C * cos_C + first_C * sin_C

        def store(output_ref: Any, halves_C: tuple[Array, Array]) -> None:
            for columns, half_C in zip(halves, halves_C, strict=True):
                output_ref[columns] = half_C.astype(dtype)

        # Values are not rotated.
        is_key = (head >= num_heads) & (head < num_heads + num_kv_heads)
        pl.when(head < num_heads)(lambda: store(query_ref, rotated))
        pl.when(is_key)(lambda: store(key_ref, rotated))
        pl.when(head >= num_heads + num_kv_heads)(lambda: store(value_ref, (first_C, second_C)))

    def output_spec(number: int, first: int) -> pl.BlockSpec:
        """A program must see a head of each output; of the two outputs it does not write, it gets the nearest head."""
        return pl.BlockSpec((None, None, 2 * half), lambda row, head: (row, jnp.clip(head - first, 0, number - 1), 0))

    angle_spec = pl.BlockSpec((None, half), lambda row, head: (row, 0))
    counts = num_heads, num_kv_heads, num_kv_heads
    return _pallas_call(
        rope_kernel,
        grid=(num_rows, sum(counts)),
        in_specs=[
            pl.BlockSpec((num_splits, None, 2 * half), lambda row, head: (0, row, head)),
            pl.BlockSpec((2 * half,), lambda row, head: (head,)),
            angle_spec,
            angle_spec,
        ],
        out_specs=tuple(output_spec(number, sum(counts[:place])) for place, number in enumerate(counts)),
        out_shape=tuple(jax.ShapeDtypeStruct((num_rows, number, 2 * half), dtype) for number in counts),
        name="qkv_heads_with_rope",
    )(qkv, bias_F, cos_RC, sin_RC)


def _sum_partials(partials_ref: Any, columns: Any) -> Array:
    """Added in the order of the splits, so that the result does not depend on timing, as with atomic adds it would."""
    return functools.reduce(jnp.add, (partials_ref[split, columns] for split in range(partials_ref.shape[0])))


def _num_splits(num_k_blocks: int, num_tiles: int) -> int:
    """The most splits of equally many blocks that neither get too short nor exceed the programs wanted."""
    return max(
        splits
        for splits in range(1, num_k_blocks + 1)
        if splits == 1
        or not num_k_blocks % splits
        and num_k_blocks // splits >= _MIN_K_BLOCKS
        and splits * num_tiles <= _MAX_PROGRAMS
    )


def _padded_rows(num_rows: int) -> int:
    """Rows of the tile (BLOCK_M): a power of two, and enough for tensor cores."""
    return max(pl.next_power_of_2(num_rows), _MIN_ROWS)


def _row_mask(num_rows: int) -> Bool[Array, "R 1"] | None:
    """Which rows of the padded tile exist; None, which makes loads and stores unmasked, if all do."""
    padded_rows = _padded_rows(num_rows)
    return (jnp.arange(padded_rows) < num_rows)[:, None] if num_rows < padded_rows else None


def _matmul_k_range(
    x_ref: Any, *kernel_refs: Any, num_rows: int, first_block: Any, num_blocks: int
) -> tuple[Array, ...]:
    """x @ kernel for every kernel, summed over a range of blocks of the reduction dimension, in float32.

    The loop of a blocked matmul. Triton pipelines it: the loads of the next iterations run during an iteration's
    products (`num_stages`). x is loaded once for all kernels.
    """
    row_mask_R1 = _row_mask(num_rows)

    def body(index: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        block = pl.ds((first_block + index) * _BLOCK_K, _BLOCK_K)
        # Only x is masked. Masked loads of weights would be done element by element, not as vectors.
        x_RB = triton.load(x_ref.at[:, block], mask=row_mask_R1, other=None if row_mask_R1 is None else 0.0)
        products = (jnp.dot(x_RB, ref[block, :], preferred_element_type=jnp.float32) for ref in kernel_refs)
        return tuple(total + product for total, product in zip(sums, products, strict=True))

    # The accumulators stay in registers over the whole loop.
    zeros = tuple(jnp.zeros((x_ref.shape[0], ref.shape[1]), jnp.float32) for ref in kernel_refs)
    return jax.lax.fori_loop(0, num_blocks, body, zeros)


def _store_rows(ref: Any, value_RF: Array, *, num_rows: int) -> None:
    triton.store(ref, value_RF.astype(ref.dtype), mask=_row_mask(num_rows))


def _pallas_call(kernel: Any, *, grid: tuple[int, ...], **settings: Any) -> Any:
    # Pipeline stages are blocks in flight, which take shared memory: as many as let all programs be resident at once.
    num_stages = 4 if math.prod(grid) <= _MAX_PROGRAMS else 3
    parameters = triton.CompilerParams(num_warps=4, num_stages=num_stages)
    return pl.pallas_call(kernel, grid=grid, compiler_params=parameters, **settings)
