"""Decoding's linear maps on GPU, by kernels that keep memory busy.

Few rows are multiplied with large matrices, so that reading these takes all the time there is. A program multiplies
all rows with a strip of columns, or, where there are too few strips to occupy the device, with a part of a strip; what
follows a product adds its parts up while it does its own work, so that a layer takes ten kernels and not sixteen.
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

_STRIP = 64  # columns of a program
_BLOCK = 64  # rows of a matrix that are read at one time
_LEAST_BLOCKS = 6  # of a program
_PROGRAMS = 264  # at most, if there is a choice: two for each processor of an H100 or H200
_LEAST_ROWS, _MOST_ROWS = 16, 64  # of x: those of the smallest product on tensor cores, and those it was timed with

SplitKPartials = Float[Array, "S R F"]  # whose sum is a product


def is_supported(num_rows: int, dims: Sequence[int], *, head_dim: int, dtype: Any) -> bool:
    """Whether the kernels can take so many rows of 16 bits, and matrices and heads of these sizes."""
    return (
        triton is not None
        and dtype in (jnp.bfloat16, jnp.float16)
        and num_rows <= _MOST_ROWS
        and all(dim % _STRIP == dim % _BLOCK == 0 for dim in dims)
        and head_dim in (32, 64, 128)
    )


def matmul_split_k(x_RD: Float[Array, "R D"], kernel_DF: Float[Array, "D F"]) -> SplitKPartials:
    """x @ kernel, in float32 and in parts."""
    (num_rows, dim), num_strips = x_RD.shape, kernel_DF.shape[1] // _STRIP
    num_parts = _num_splits(dim // _BLOCK, num_strips)
    blocks, rows = dim // _BLOCK // num_parts, _padded(num_rows)

    def multiply(x_ref: Any, kernel_ref: Any, part_ref: Any) -> None:
        first = pl.program_id(1) * blocks
        (part_RF,) = _products(x_ref, kernel_ref, num_rows=num_rows, first=first, blocks=blocks)
        _store(part_ref, part_RF, num_rows=num_rows)

    return _call(
        multiply,
        grid=(num_strips, num_parts),
        in_specs=[
            pl.BlockSpec((rows, dim), lambda strip, part: (0, 0)),
            pl.BlockSpec((dim, _STRIP), lambda strip, part: (0, strip)),
        ],
        out_specs=pl.BlockSpec((None, rows, _STRIP), lambda strip, part: (part, 0, strip)),
        out_shape=jax.ShapeDtypeStruct((num_parts, num_rows, kernel_DF.shape[1]), jnp.float32),
        name="product",
    )(x_RD, kernel_DF)


def swiglu(x_RD: Float[Array, "R D"], gate_DF: Float[Array, "D F"], up_DF: Float[Array, "D F"]) -> Float[Array, "R F"]:
    """silu(x @ gate) * (x @ up)"""
    (num_rows, dim), num_strips = x_RD.shape, gate_DF.shape[1] // _STRIP
    rows = _padded(num_rows)

    def multiply(x_ref: Any, gate_ref: Any, up_ref: Any, output_ref: Any) -> None:
        gate_RF, up_RF = _products(x_ref, gate_ref, up_ref, num_rows=num_rows, first=0, blocks=dim // _BLOCK)
        _store(output_ref, jax.nn.silu(gate_RF) * up_RF, num_rows=num_rows)

    strip = pl.BlockSpec((dim, _STRIP), lambda strip: (0, strip))
    return _call(
        multiply,
        grid=(num_strips,),
        in_specs=[pl.BlockSpec((rows, dim), lambda strip: (0, 0)), strip, strip],
        out_specs=pl.BlockSpec((rows, _STRIP), lambda strip: (0, strip)),
        out_shape=jax.ShapeDtypeStruct((num_rows, gate_DF.shape[1]), x_RD.dtype),
        name="gated",
    )(x_RD, gate_DF, up_DF)


def add_and_norm(
    x_RD: Float[Array, "R D"], added: SplitKPartials, scale_D: Float[Array, " D"], *, epsilon: float
) -> tuple[Float[Array, "R D"], Float[Array, "R D"]]:
    """x with a product added, and that divided by its root mean square and multiplied with `scale_D`."""
    num_rows, dim = x_RD.shape
    width = next(size for size in (512, 256, 128, 64) if dim % size == 0)
    columns = [pl.ds(first, width) for first in range(0, dim, width)]

    def add(x_ref: Any, added_ref: Any, scale_ref: Any, sum_ref: Any, normed_ref: Any) -> None:
        total, sums = jnp.float32(0), []
        for column in columns:
            sum_C = x_ref[column] + _sum_partials(added_ref, column).astype(x_RD.dtype)
            sum_ref[column] = sum_C
            sums.append(sum_C.astype(jnp.float32))
            total += jnp.sum(sums[-1] ** 2)
        factor = jax.lax.rsqrt(total / dim + epsilon)
        for column, sum_C in zip(columns, sums, strict=True):
            normed_C = sum_C * (factor * scale_ref[column].astype(jnp.float32))
            normed_ref[column] = normed_C.astype(x_RD.dtype)

    row = pl.BlockSpec((None, dim), lambda row: (row, 0))
    return _call(
        add,
        grid=(num_rows,),
        in_specs=[
            row,
            pl.BlockSpec((added.shape[0], None, dim), lambda row: (0, row, 0)),
            pl.BlockSpec((dim,), lambda row: (0,)),
        ],
        out_specs=(row, row),
        out_shape=(jax.ShapeDtypeStruct(x_RD.shape, x_RD.dtype),) * 2,
        name="add_and_norm",
    )(x_RD, added, scale_D)


def qkv_heads_with_rope(
    projected: SplitKPartials,
    bias_F: Float[Array, " F"],
    cos_RC: Float[Array, "R H//2"],
    sin_RC: Float[Array, "R H//2"],
    *,
    num_kv_heads: int,
) -> tuple[Float[Array, "R N H"], Float[Array, "R K H"], Float[Array, "R K H"]]:
    """Queries, keys and values, which stand in this order; queries and keys are rotated (see `rope.rotate`)."""
    (num_parts, num_rows, _), half, dtype = projected.shape, cos_RC.shape[1], bias_F.dtype
    num_heads = len(bias_F) // (2 * half) - 2 * num_kv_heads
    halves = pl.ds(0, half), pl.ds(half, half)

    def rotate(
        projected_ref: Any, bias_ref: Any, cos_ref: Any, sin_ref: Any, query_ref: Any, key_ref: Any, value_ref: Any
    ) -> None:
        head = pl.program_id(1)
        first_C, second_C = (
            (_sum_partials(projected_ref, column) + bias_ref[column].astype(jnp.float32))
            .astype(dtype)
            .astype(jnp.float32)
            for column in halves
        )
        cos_C, sin_C = cos_ref[...], sin_ref[...]
        turned = first_C * cos_C - second_C * sin_C, second_C * cos_C + first_C * sin_C

        def store(output_ref: Any, parts: tuple[Array, Array]) -> None:
            for column, part_C in zip(halves, parts, strict=True):
                output_ref[column] = part_C.astype(dtype)

        is_key = (head >= num_heads) & (head < num_heads + num_kv_heads)
        pl.when(head < num_heads)(lambda: store(query_ref, turned))
        pl.when(is_key)(lambda: store(key_ref, turned))
        pl.when(head >= num_heads + num_kv_heads)(lambda: store(value_ref, (first_C, second_C)))

    def some_heads(number: int, first: int) -> pl.BlockSpec:
        """Of others, a program sees the nearest and leaves it alone."""
        return pl.BlockSpec((None, None, 2 * half), lambda row, head: (row, jnp.clip(head - first, 0, number - 1), 0))

    row = pl.BlockSpec((None, half), lambda row, head: (row, 0))
    counts = num_heads, num_kv_heads, num_kv_heads
    return _call(
        rotate,
        grid=(num_rows, sum(counts)),
        in_specs=[
            pl.BlockSpec((num_parts, None, 2 * half), lambda row, head: (0, row, head)),
            pl.BlockSpec((2 * half,), lambda row, head: (head,)),
            row,
            row,
        ],
        out_specs=tuple(some_heads(number, sum(counts[:place])) for place, number in enumerate(counts)),
        out_shape=tuple(jax.ShapeDtypeStruct((num_rows, number, 2 * half), dtype) for number in counts),
        name="heads",
    )(projected, bias_F, cos_RC, sin_RC)


def _sum_partials(parts_ref: Any, column: Any) -> Array:
    return functools.reduce(jnp.add, (parts_ref[part, column] for part in range(parts_ref.shape[0])))


def _num_splits(blocks: int, num_strips: int) -> int:
    """In how many parts a product is computed, each of as many blocks of rows."""
    return max(
        number
        for number in range(1, blocks + 1)
        if number == 1 or not blocks % number and blocks // number >= _LEAST_BLOCKS and number * num_strips <= _PROGRAMS
    )


def _padded(num_rows: int) -> int:
    return max(pl.next_power_of_2(num_rows), _LEAST_ROWS)


def _is_row(num_rows: int) -> Bool[Array, "R 1"] | None:
    """Which of the padded rows there are; None stands for all."""
    rows = _padded(num_rows)
    return (jnp.arange(rows) < num_rows)[:, None] if num_rows < rows else None


def _products(x_ref: Any, *kernel_refs: Any, num_rows: int, first: Any, blocks: int) -> tuple[Array, ...]:
    """x @ kernel for every kernel, over a range of blocks of the dimension that is summed over."""
    is_row_R1 = _is_row(num_rows)

    def add(number: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        block = pl.ds((first + number) * _BLOCK, _BLOCK)
        x_RB = triton.load(x_ref.at[:, block], mask=is_row_R1, other=None if is_row_R1 is None else 0.0)
        products = (jnp.dot(x_RB, ref[block, :], preferred_element_type=jnp.float32) for ref in kernel_refs)
        return tuple(total + product for total, product in zip(sums, products, strict=True))

    zeros = tuple(jnp.zeros((x_ref.shape[0], ref.shape[1]), jnp.float32) for ref in kernel_refs)
    return jax.lax.fori_loop(0, blocks, add, zeros)


def _store(ref: Any, value_RF: Array, *, num_rows: int) -> None:
    triton.store(ref, value_RF.astype(ref.dtype), mask=_is_row(num_rows))


def _call(kernel: Any, *, grid: tuple[int, ...], **settings: Any) -> Any:
    # Blocks on their way: so many that all programs find room at one time.
    ahead = 4 if math.prod(grid) <= _PROGRAMS else 3
    parameters = triton.CompilerParams(num_warps=4, num_stages=ahead)
    return pl.pallas_call(kernel, grid=grid, compiler_params=parameters, **settings)
