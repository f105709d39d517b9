"""On a GPU: its kernels of attention beside the plain one, in bfloat16, at the shapes of `configs/2b.py` and `7b.py`.

    python -m benchmarks.kernels [--prompts=16] [--length=1024]

Prints how far the results are from plain attention in float32, as a share of their norm, and the least seconds;
forward and back for a quarter of the prompts. The exit status is 1 where there is no kernel, or one that is further
from it than twice plain attention in bfloat16.
"""

import argparse
import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from benchmarks.peers.ceilings import least_seconds
from r1vl_jax.models import cudnn, flash_decode
from r1vl_jax.models.attention import attention, decode_attention
from r1vl_jax.models.branches import Branches

_SAMPLES = 4  # of a prompt

Attend = Callable[..., Any]  # (platform, *inputs) -> results


def _normal(number: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(number), shape, jnp.bfloat16)


def _gradients(attend: Attend, weight: jax.Array) -> Attend:
    """Result, and gradients of its product with a weight."""

    def of(platform: str, *inputs: jax.Array) -> Any:
        def product(*inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
            output = attend(platform, *inputs)
            return jnp.sum(weight * output.astype(jnp.float32)), output

        return jax.grad(product, argnums=(0, 1, 2), has_aux=True)(*inputs)

    return of


def _text(rows: int, length: int, num_heads: int, num_kv_heads: int) -> tuple[Attend, list[jax.Array]]:
    """Prompts with samples behind them; the first prompt and every sample are padded by a half."""
    half, columns = length // 2, length * (1 + _SAMPLES)
    segment_BT = jnp.ones((rows, columns), jnp.int32).at[0, :half].set(0)
    column_T = jnp.arange(columns)
    is_cut_T = (column_T >= length) & (column_T % length >= half)
    segment_BT = jnp.where(is_cut_T[None], 0, segment_BT)

    def attend(platform: str, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return attention(
            query,
            key,
            value,
            segment_BT=segment_BT,
            is_causal=True,
            branches=Branches(_SAMPLES, length),
            platform=platform,
        )

    heads = (num_heads, num_kv_heads, num_kv_heads)
    inputs = [_normal(number, rows, columns, each, 128) for number, each in enumerate(heads)]
    return _gradients(attend, _normal(3, rows, columns, num_heads, 128)), inputs


def _pictures(rows: int, length: int) -> tuple[Attend, list[jax.Array]]:
    """Two pictures a row and padding, forward and back."""
    columns = 2 * length
    segment_BT = jnp.repeat(jnp.array([[1, 2, 2, 0]]), columns // 4, axis=1) * jnp.ones((rows, 1), jnp.int32)

    def attend(platform: str, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return attention(query, key, value, segment_BT=segment_BT, is_causal=False, platform=platform)

    return _gradients(attend, _normal(3, rows, columns, 16, 80)), [_normal(n, rows, columns, 16, 80) for n in range(3)]


def _decoding(rows: int, length: int, num_heads: int, num_kv_heads: int) -> tuple[Attend, list[jax.Array]]:
    """A token in the middle of a completion, for the samples of so many prompts."""
    samples = rows * _SAMPLES

    def attend(platform: str, query: jax.Array, *caches: jax.Array) -> jax.Array:
        prefix_key, prefix_value, suffix_key, suffix_value = caches
        return decode_attention(
            query,
            prefix_key_PKHS=prefix_key,
            prefix_value_PKSH=prefix_value,
            prefix_mask_PS=jnp.ones((rows, length), bool).at[0, : length // 2].set(False),
            suffix_key_BKHT=suffix_key,
            suffix_value_BKTH=suffix_value,
            step=jnp.int32(length // 2),
            platform=platform,
        )

    shapes = [(number, num_kv_heads, *each) for number in (rows, samples) for each in ((128, length), (length, 128))]
    return attend, [_normal(0, samples, num_heads, 128), *(_normal(n, *shape) for n, shape in enumerate(shapes))]


def _error(actual: Any, exact: Any) -> float:
    """The largest of all results."""
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(exact), strict=True)
    return max(float(jnp.linalg.norm(a.astype(jnp.float32) - e) / jnp.linalg.norm(e)) for a, e in pairs)


def run(prompts: int, length: int, platform: str, console: Console) -> bool:
    """Whether there is a kernel for everything, and near enough."""
    cases = {
        "2B, text, forward and back": _text(prompts // 4, length, 12, 2),
        "7B, text, forward and back": _text(prompts // 4, length, 28, 4),
        "pictures, forward and back": _pictures(prompts // 4, length),
        "2B, a token": _decoding(prompts, length, 12, 2),
        "7B, a token": _decoding(prompts, length, 28, 4),
    }
    table = Table("attention", box=None, pad_edge=False)
    for heading in ("kernel: error", "plain: error", "kernel: s", "plain: s", "times"):
        table.add_column(heading, justify="right")
    is_near = True
    for name, (attend, inputs) in cases.items():
        if not _has_kernel(inputs):
            table.add_row(name, "none")
            is_near = False
            continue
        kernel, plain = (jax.jit(functools.partial(attend, each)) for each in (platform, "cpu"))
        with jax.default_matmul_precision("highest"):
            exact = jax.jit(functools.partial(attend, "cpu"))(*(each.astype(jnp.float32) for each in inputs))
        errors = [_error(program(*inputs), exact) for program in (kernel, plain)]
        seconds = [least_seconds(functools.partial(program, *inputs)) for program in (kernel, plain)]
        is_near &= errors[0] <= 2 * errors[1]  # false for NaN, too
        table.add_row(name, *(f"{each:.2g}" for each in (*errors, *seconds, seconds[1] / seconds[0])))
    device = jax.devices()[0].device_kind
    console.print(f"{device}, jax {jax.__version__}; {prompts} prompts, {_SAMPLES} samples each, {length} tokens each")
    console.print(table)
    return is_near


def _has_kernel(inputs: list[jax.Array]) -> bool:
    if len(inputs) == 3:
        query, key, _ = inputs
        return cudnn.is_suited(query, is_causal=query.shape[2] > key.shape[2])  # pictures have as many of either
    query, prefix_key, _, suffix_key, _ = inputs
    return flash_decode.is_suited(query, jnp.ones(prefix_key.shape[::3], bool), suffix_key)


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.kernels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=_multiple_of(4), default=16)
    parser.add_argument("--length", type=_multiple_of(64), default=1024, help="of a prompt and of a completion")
    arguments = parser.parse_args()
    if jax.default_backend() != "gpu":
        sys.exit(f"kernels are for a GPU, and JAX finds {jax.devices()[0].device_kind}")
    sys.exit(not run(arguments.prompts, arguments.length, "gpu", Console(highlight=False)))


def _multiple_of(unit: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) == 0 or int(text) % unit:
            raise argparse.ArgumentTypeError(f"expected a multiple of {unit}, got {text}")
        return int(text)

    return number


if __name__ == "__main__":
    main()
