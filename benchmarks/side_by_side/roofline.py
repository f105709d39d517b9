"""The least time that this machine allows for the work: what must be computed and read, over what it can do at best.

Nobody gets below these seconds. Operations are those of `r1vl_jax.aot.flops`, without what is computed
twice. For every token that the rows of a batch draw at the same time, all weights of the decoder have to be read once,
and the keys and values so far (those of a prompt once for all its completions). How fast memory is read depends on how
much is read: less than fits into the processor's caches is read faster. So the rate is measured on just as much as a
token needs.
"""

import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.side_by_side.work import Work
from r1vl_jax import config
from r1vl_jax.aot.flops import Counter
from r1vl_jax.checkpoint.hf.config import from_hf
from r1vl_jax.checkpoint.hf.directory import read_json
from r1vl_jax.models.qwen2_vl.config import Config
from r1vl_jax.models.qwen2_vl.model import Definition

_TRIALS, _TRIAL_S = 5, 0.2
_MATRIX_SIDE = {"cpu": 2_048, "gpu": 8_192, "tpu": 8_192}


@dataclass(frozen=True)
class Machine:
    """What it does at best.

    Attributes:
        bytes_per_s: read from memory, one after another.
        operations_per_s: of a product of large matrices.
        read_bytes: of the array whose reading was timed.
    """

    bytes_per_s: float
    operations_per_s: float
    read_bytes: int


@dataclass(frozen=True)
class Needs:
    """What the work cannot do without, in operations and bytes."""

    prefill_operations: float
    decode_operations: float
    decode_bytes: float
    token_bytes: float
    reference_operations: float
    update_operations: float

    def least_seconds(self, machine: Machine) -> dict[str, float]:
        """Under the names of the figures."""
        prefill, decode, reference, update = (
            operations / machine.operations_per_s
            for operations in (
                self.prefill_operations,
                self.decode_operations,
                self.reference_operations,
                self.update_operations,
            )
        )
        decode = max(decode, self.decode_bytes / machine.bytes_per_s)
        generation = prefill + decode
        return {
            "prefill": prefill,
            "decode": decode,
            "generation": generation,
            "reference": reference,
            "update": update,
            "step": generation + reference + update,
        }


def needs(work: Work, sizes: Config, *, prompt_length: int, patches: int) -> Needs:
    """By formula.

    Args:
        prompt_length: tokens of each prompt, those of its picture included.
        patches: of a picture.
    """
    count = Counter(Definition(sizes), config.Model(), prompt_length, work.new_tokens, patches)
    past = work.num_prompts * prompt_length + work.num_rows * (work.new_tokens - 1) / 2  # tokens, on average
    token_bytes = bytes_of_token(sizes, jnp.dtype(work.dtype).itemsize, past)
    return Needs(
        prefill_operations=count.prefill(work.num_prompts).model,
        decode_operations=count.decode(work.num_rows).model,
        decode_bytes=work.new_tokens * token_bytes,
        token_bytes=token_bytes,
        reference_operations=count.score(work.num_prompts, work.num_rows, num_sequences=work.num_prompts).model,
        update_operations=count.update(work.num_prompts, work.num_rows, num_sequences=work.num_prompts).model,
    )


def bytes_of_token(sizes: Config, itemsize: int, num_past: float) -> float:
    """What must be read so that all rows draw a token: the matrices of the decoder, the head, and keys and values.

    Args:
        itemsize: bytes of a number.
        num_past: tokens that are attended to, by all rows together, those of a prompt once.
    """
    width = sizes.num_key_value_heads * sizes.head_dim
    layer = sizes.hidden_size * (2 * sizes.hidden_size + 2 * width + 3 * sizes.intermediate_size)
    weights = sizes.num_hidden_layers * layer + sizes.hidden_size * sizes.vocab_size
    return itemsize * (weights + num_past * 2 * width * sizes.num_hidden_layers)


def measure_machine(dtype: str, read_bytes: int) -> Machine:
    """The best of several programs, each timed several times."""
    return Machine(_bytes_per_s(dtype, read_bytes), _operations_per_s(dtype), read_bytes)


def _bytes_per_s(dtype: str, read_bytes: int) -> float:
    """Reading an array again and again: as the sum of its numbers, as a matrix times a vector, as a product of two."""
    side = 1_024
    matrix = _random((max(read_bytes // jnp.dtype(dtype).itemsize // side, 1), side), dtype)
    vector = _random((side,), dtype)
    add, multiply = jax.jit(jnp.sum), jax.jit(jnp.matmul)
    programs: list[Callable[[], object]] = [
        lambda: add(matrix),
        lambda: multiply(matrix, vector),
    ]
    if matrix.devices().pop().platform == "cpu" and dtype == "float32":
        programs += _on_host(np.asarray(matrix))
    return matrix.nbytes / min(map(least_seconds, programs))


def _on_host(matrix: np.ndarray) -> list[Callable[[], object]]:
    """NumPy, a thread for each processor; and torch where it is installed."""
    threads, torch = ThreadPoolExecutor(), _torch()
    parts = np.array_split(matrix.reshape(-1), threads._max_workers)
    programs: list[Callable[[], object]] = [lambda: list(threads.map(lambda part: np.dot(part, part), parts))]
    if torch is None:
        return programs
    tensor, vector = torch.tensor(matrix), torch.ones(matrix.shape[1])
    return [*programs, lambda: tensor.sum(), lambda: tensor @ vector]


def _operations_per_s(dtype: str) -> float:
    platform = jax.devices()[0].platform
    side = _MATRIX_SIDE[platform]
    matrix = _random((side, side), dtype)
    multiply = jax.jit(jnp.matmul)
    programs: list[Callable[[], object]] = [lambda: multiply(matrix, matrix)]
    torch = _torch() if platform == "cpu" else None
    if torch is not None:
        tensor = torch.rand(side, side).to(getattr(torch, dtype))
        programs.append(lambda: tensor @ tensor)
    return 2 * side**3 / min(map(least_seconds, programs))


def _torch() -> Any:
    """None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    return torch


def _random(shape: tuple[int, ...], dtype: str) -> jax.Array:
    """A GPU multiplies numbers that are alike faster: they change fewer bits, which takes less power."""
    return jax.random.normal(jax.random.key(0), shape, dtype)


def least_seconds(program: Callable[[], object]) -> float:
    """The least time of a call; short ones are repeated, so that neither the clock nor the host is part of it."""

    def seconds(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls - 1):
            program()
        jax.block_until_ready(program())  # a device does one after another
        return (time.perf_counter() - start) / calls

    seconds(1)
    calls = max(round(_TRIAL_S / seconds(1)), 1)
    return min(seconds(calls) for _ in range(_TRIALS))


def roofline(work: Work) -> dict[str, Any]:
    """Rates of this machine, what the work needs, and the seconds that follow, as JSON has them."""
    inputs = np.load(work.inputs)
    patches = int(inputs["image_grid_thw"][0].prod())
    sizes = from_hf(read_json(work.model, "config.json"))
    needed = needs(work, sizes, prompt_length=inputs["input_ids"].shape[1], patches=patches)
    machine = measure_machine(work.dtype, int(needed.token_bytes))
    return {
        "machine": dataclasses.asdict(machine),
        "needs": dataclasses.asdict(needed),
        "seconds": needed.least_seconds(machine),
    }
