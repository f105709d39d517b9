"""Accuracy and speed of the GPU kernels against plain XLA, in bfloat16, at the shapes of `configs/2b.py` and `7b.py`.

    python -m benchmarks.gpu_kernels [--prompts=16] [--length=1024]

Prints the relative error against float32 and the shortest time in seconds: of attention, forward and backward, for a
quarter of the prompts; of decode attention; and of a whole decoder layer of a decode step (including a copy of its
caches, which decoding avoids). The exit status is 1 if a kernel is missing, or if its error is more than twice that of
plain XLA in bfloat16.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from benchmarks.side_by_side.roofline import min_seconds
from r1vl_jax.models.attention import cudnn, flash_decode_gpu
from r1vl_jax.models.attention.attention import attention
from r1vl_jax.models.attention.decode import decode_attention
from r1vl_jax.models.attention.flash_decode_gpu import KeyValue
from r1vl_jax.models.attention.shared_prefix import SharedPrefix
from r1vl_jax.models.presets import PRESETS
from r1vl_jax.models.qwen2_vl import decode_gpu
from r1vl_jax.models.qwen2_vl.cache import PrefixCache, SuffixCache
from r1vl_jax.models.qwen2_vl.config import Config, TowerConfig
from r1vl_jax.models.qwen2_vl.decode import Decoder
from r1vl_jax.models.qwen2_vl.model import Definition

_NUM_SAMPLES = 4  # per prompt
_NUM_TOKENS = 32  # decoded, of a completion

Compute = Callable[..., Any]  # (platform, *inputs) -> results


@dataclass(frozen=True)
class Case:
    """A computation to run by kernels and by plain XLA, and whether kernels support it."""

    compute: Compute
    inputs: list[jax.Array]
    has_kernel: bool


def _normal(number: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(number), shape, jnp.bfloat16)


def _gradients(attend: Compute, cotangent: jax.Array) -> Compute:
    """Gradients by vector-Jacobian product with a cotangent, and the output."""

    def gradients(platform: str, *inputs: jax.Array) -> Any:
        def loss(*inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
            output = attend(platform, *inputs)
            return jnp.sum(cotangent * output.astype(jnp.float32)), output

        return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(*inputs)

    return gradients


def _text(rows: int, length: int, sizes: Config) -> Case:
    """Prompts followed by their completions; half of the first prompt and of every completion is padding."""
    half, columns = length // 2, length * (1 + _NUM_SAMPLES)
    segment_BT = jnp.ones((rows, columns), jnp.int32).at[0, :half].set(0)
    column_T = jnp.arange(columns)
    is_padding_T = (column_T >= length) & (column_T % length >= half)
    segment_BT = jnp.where(is_padding_T[None], 0, segment_BT)

    def attend(platform: str, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return attention(
            query,
            key,
            value,
            segment_BT=segment_BT,
            is_causal=True,
            shared_prefix=SharedPrefix(_NUM_SAMPLES, length),
            platform=platform,
        )

    inputs = [_normal(number, rows, columns, each, sizes.head_dim) for number, each in enumerate(_heads(sizes))]
    has_kernel = cudnn.is_supported(inputs[0], is_causal=True)
    return Case(_gradients(attend, _normal(3, *inputs[0].shape)), inputs, has_kernel)


def _images(rows: int, length: int, sizes: TowerConfig) -> Case:
    """Two packed images a row, and padding."""
    columns = 2 * length
    segment_BT = jnp.repeat(jnp.array([[1, 2, 2, 0]]), columns // 4, axis=1) * jnp.ones((rows, 1), jnp.int32)

    def attend(platform: str, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return attention(query, key, value, segment_BT=segment_BT, is_causal=False, platform=platform)

    inputs = [_normal(number, rows, columns, sizes.num_heads, sizes.head_dim) for number in range(3)]
    has_kernel = cudnn.is_supported(inputs[0], is_causal=False)
    return Case(_gradients(attend, _normal(3, *inputs[0].shape)), inputs, has_kernel)


def _decode_attention(rows: int, length: int, sizes: Config) -> Case:
    """Attention of decode steps around the middle of a completion, for the samples of all prompts."""
    num_rows, num_tokens = rows * _NUM_SAMPLES, min(_NUM_TOKENS, length)

    def attend(platform: str, query: jax.Array, *others: jax.Array) -> Any:
        new_key, new_value, prefix_key, prefix_value, *suffix = others

        def decode_step(index: jax.Array, carry: tuple[jax.Array, KeyValue]) -> tuple[jax.Array, KeyValue]:
            total, suffix = carry
            output, suffix = decode_attention(
                query[index],
                (new_key[index], new_value[index]),
                prefix=(prefix_key, prefix_value),
                prefix_mask_PS=jnp.ones((rows, length), bool).at[0, : length // 2].set(False),
                suffix=suffix,
                step=(length - num_tokens) // 2 + index,
                platform=platform,
            )
            return total + output, suffix

        return jax.lax.fori_loop(0, num_tokens, decode_step, (jnp.zeros(query.shape[1:]), (suffix[0], suffix[1])))

    shapes = [(num_tokens, num_rows, heads, sizes.head_dim) for heads in _heads(sizes)] + _caches(rows, length, sizes)
    inputs = [_normal(number, *shape) for number, shape in enumerate(shapes)]
    has_kernel = flash_decode_gpu.is_supported(inputs[0][0], jnp.ones((rows, length), bool), inputs[-2])
    return Case(attend, inputs, has_kernel)


def _decoder_layer(rows: int, length: int, sizes: Config) -> Case:
    """A decode step of a one-layer model without head: linear layers, norms and attention."""
    num_rows, vocab_size = rows * _NUM_SAMPLES, 1_024
    sizes = replace(sizes, num_hidden_layers=1, vocab_size=vocab_size, tie_word_embeddings=True)
    definition = Definition(sizes, dtype="bfloat16", platform="gpu")
    text = definition.abstract_params()["text"]
    text["layers"] = [jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), text["layers"])]
    leaves, structure = jax.tree.flatten_with_path(text)
    params = [
        _normal(number, *leaf.shape) * leaf.shape[0] ** -0.5 + (path[-1].key == "scale")  # norms are near 1
        for number, (path, leaf) in enumerate(leaves)
    ]

    def compute(platform: str, *inputs: jax.Array) -> Any:
        (prefix_key, prefix_value, suffix_key, suffix_value), params = inputs[:4], inputs[4:]
        decoder = Decoder(
            replace(definition, platform=platform, dtype=str(prefix_key.dtype)), structure.unflatten(params)
        )
        return decoder(
            jnp.arange(num_rows) % vocab_size,
            decoder.rope_angles(jnp.arange(num_rows), 1),
            prefix=PrefixCache([prefix_key], [prefix_value], jnp.ones((rows, length), bool)),
            suffix=SuffixCache([suffix_key], [suffix_value]),
            step=jnp.int32(length // 2),
        )

    inputs = [_normal(number, *shape) for number, shape in enumerate(_caches(rows, length, sizes))] + params
    has_kernel = decode_gpu.is_supported(sizes, definition.dtype, num_rows=num_rows)
    return Case(compute, inputs, has_kernel)


def _caches(rows: int, length: int, sizes: Config) -> list[tuple[int, ...]]:
    """Shapes of the key and value caches of prompts, and of completions."""
    head_dim, kv_heads = sizes.head_dim, sizes.num_key_value_heads
    return [
        (number, kv_heads, *each)
        for number in (rows, rows * _NUM_SAMPLES)
        for each in ((head_dim, length), (length, head_dim))
    ]


def _heads(sizes: Config) -> tuple[int, int, int]:
    """Numbers of heads of queries, keys and values."""
    return sizes.num_attention_heads, sizes.num_key_value_heads, sizes.num_key_value_heads


def _error(actual: Any, expected: Any) -> float:
    """The largest relative error of all results."""
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    return max(float(jnp.linalg.norm(a.astype(jnp.float32) - e) / jnp.linalg.norm(e)) for a, e in pairs)


def run(prompts: int, length: int, sizes: Sequence[Config], platform: str, console: Console) -> bool:
    """Prints the table; whether every case has a kernel, which is accurate. Models are named by their width."""
    cases = {"images, forward and backward": functools.partial(_images, prompts // 4, length, sizes[0].vision)}
    for each in sizes:
        cases |= {
            f"{each.hidden_size}, text, forward and backward": functools.partial(_text, prompts // 4, length, each),
            f"{each.hidden_size}, {_NUM_TOKENS} tokens": functools.partial(_decode_attention, prompts, length, each),
            f"{each.hidden_size}, decoder layer": functools.partial(_decoder_layer, prompts, length, each),
        }
    table = Table("", box=None, pad_edge=False)
    for heading in ("kernel: error", "XLA: error", "kernel: s", "XLA: s", "speed-up"):
        table.add_column(heading, justify="right")
    is_accurate = True
    for name, make in cases.items():
        case = make()
        if not case.has_kernel:
            table.add_row(name, "none")
            is_accurate = False
            continue
        kernel, plain = (jax.jit(functools.partial(case.compute, each)) for each in (platform, "cpu"))
        with jax.default_matmul_precision("highest"):
            float32_inputs = (each.astype(jnp.float32) for each in case.inputs)
            expected = jax.jit(functools.partial(case.compute, "cpu"))(*float32_inputs)
        errors = [_error(program(*case.inputs), expected) for program in (kernel, plain)]
        seconds = [min_seconds(functools.partial(program, *case.inputs)) for program in (kernel, plain)]
        is_accurate &= errors[0] <= 2 * errors[1]  # false for NaN, too
        cells = [f"{each:.2g}" for each in (*errors, *seconds, seconds[1] / seconds[0])]
        print(f"{name}: {', '.join(cells)}", file=sys.stderr)  # at once, so that a crash loses no result
        table.add_row(name, *cells)
    device = jax.devices()[0].device_kind
    console.print(
        f"{device}, jax {jax.__version__}; {prompts} prompts, {_NUM_SAMPLES} samples each, {length} tokens each"
    )
    console.print(table)
    return is_accurate


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu_kernels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=_multiple_of(4), default=16)
    parser.add_argument("--length", type=_multiple_of(64), default=1024, help="of a prompt and of a completion")
    arguments = parser.parse_args()
    if jax.default_backend() != "gpu":
        sys.exit(f"needs a GPU, JAX finds {jax.devices()[0].device_kind}")
    sizes = [PRESETS[name] for name in ("2b", "7b")]
    sys.exit(not run(arguments.prompts, arguments.length, sizes, "gpu", Console(highlight=False)))


def _multiple_of(unit: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) == 0 or int(text) % unit:
            raise argparse.ArgumentTypeError(f"expected a multiple of {unit}, got {text}")
        return int(text)

    return number


if __name__ == "__main__":
    main()
