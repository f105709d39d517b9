"""Roofline of the work on this machine: required FLOPs and bytes over the measured peak rates.

FLOPs are those of `r1vl_jax.aot.flops` without recomputation. Each decode step reads all weights of the decoder once
for the whole batch, and the KV cache so far (a prompt's once for all its completions). Read bandwidth depends on the
working set, since what fits the CPU's caches is read faster; so it is measured on as many bytes as a decode step reads.
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
from r1vl_jax.aot.flops import FlopCounter
from r1vl_jax.checkpoint.hf.config import from_hf
from r1vl_jax.checkpoint.hf.directory import read_json
from r1vl_jax.models.qwen2_vl.config import Config
from r1vl_jax.models.qwen2_vl.model import Definition

_TRIALS, _TRIAL_S = 5, 0.2
_MATRIX_SIDE = {"cpu": 2_048, "gpu": 8_192, "tpu": 8_192}


@dataclass(frozen=True)
class Machine:
    """Peak rates.

    Attributes:
        bytes_per_s: sequential reads from memory.
        flops_per_s: of a matmul of large matrices.
        read_bytes: size of the array whose reads were timed.
    """

    bytes_per_s: float
    flops_per_s: float
    read_bytes: int


@dataclass(frozen=True)
class WorkCost:
    """Required FLOPs and bytes of the work."""

    prefill_flops: float
    decode_flops: float
    decode_bytes: float
    bytes_per_token: float
    reference_flops: float
    update_flops: float

    def roofline_seconds(self, machine: Machine) -> dict[str, float]:
        """Lower bounds on the seconds of each part of a step."""
        prefill, decode, reference, update = (
            flops / machine.flops_per_s
            for flops in (
                self.prefill_flops,
                self.decode_flops,
                self.reference_flops,
                self.update_flops,
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


def work_cost(work: Work, sizes: Config, *, prompt_length: int, patches: int) -> WorkCost:
    """Required FLOPs and bytes by formula.

    Args:
        prompt_length: tokens per prompt, those of the image included.
        patches: per image.
    """
    count = FlopCounter(Definition(sizes), config.Model(), prompt_length, work.new_tokens, patches)
    past = (
        work.num_prompts * prompt_length + work.num_rows * (work.new_tokens - 1) / 2
    )  # tokens in the cache, on average
    token_bytes = decode_step_bytes(sizes, jnp.dtype(work.dtype).itemsize, past)
    return WorkCost(
        prefill_flops=count.prefill(work.num_prompts).model,
        decode_flops=count.decode(work.num_rows, length=work.new_tokens).model,
        decode_bytes=work.new_tokens * token_bytes,
        bytes_per_token=token_bytes,
        reference_flops=count.logps(work.num_prompts, work.num_rows, num_sequences=work.num_prompts).model,
        update_flops=count.update(work.num_prompts, work.num_rows, num_sequences=work.num_prompts).model,
    )


def decode_step_bytes(sizes: Config, itemsize: int, num_past: float) -> float:
    """Bytes that a decode step of all rows reads: the decoder's matrices, the LM head, and the KV cache.

    Args:
        itemsize: bytes per element.
        num_past: tokens in the KV cache, of all rows together, a prompt's counted once.
    """
    width = sizes.num_key_value_heads * sizes.head_dim
    layer = sizes.hidden_size * (2 * sizes.hidden_size + 2 * width + 3 * sizes.intermediate_size)
    weights = sizes.num_hidden_layers * layer + sizes.hidden_size * sizes.vocab_size
    return itemsize * (weights + num_past * 2 * width * sizes.num_hidden_layers)


def measure_machine(dtype: str, read_bytes: int) -> Machine:
    """The best of several programs, each timed several times."""
    return Machine(_read_bytes_per_s(dtype, read_bytes), _matmul_flops_per_s(dtype), read_bytes)


def _read_bytes_per_s(dtype: str, read_bytes: int) -> float:
    """Repeated reads of an array: as a sum, as a matrix-vector product, and on CPU by NumPy and torch."""
    side = 1_024
    matrix = _random((max(read_bytes // jnp.dtype(dtype).itemsize // side, 1), side), dtype)
    vector = _random((side,), dtype)
    add, multiply = jax.jit(jnp.sum), jax.jit(jnp.matmul)
    programs: list[Callable[[], object]] = [
        lambda: add(matrix),
        lambda: multiply(matrix, vector),
    ]
    if matrix.devices().pop().platform == "cpu" and dtype == "float32":
        programs += _host_reads(np.asarray(matrix))
    return matrix.nbytes / min(map(min_seconds, programs))


def _host_reads(matrix: np.ndarray) -> list[Callable[[], object]]:
    """NumPy with a thread per core; and torch where it is installed."""
    threads, torch = ThreadPoolExecutor(), _torch()
    parts = np.array_split(matrix.reshape(-1), threads._max_workers)
    programs: list[Callable[[], object]] = [lambda: list(threads.map(lambda part: np.dot(part, part), parts))]
    if torch is None:
        return programs
    tensor, vector = torch.tensor(matrix), torch.ones(matrix.shape[1])
    return [*programs, lambda: tensor.sum(), lambda: tensor @ vector]


def _matmul_flops_per_s(dtype: str) -> float:
    platform = jax.devices()[0].platform
    side = _MATRIX_SIDE[platform]
    matrix = _random((side, side), dtype)
    multiply = jax.jit(jnp.matmul)
    programs: list[Callable[[], object]] = [lambda: multiply(matrix, matrix)]
    torch = _torch() if platform == "cpu" else None
    if torch is not None:
        tensor = torch.rand(side, side).to(getattr(torch, dtype))
        programs.append(lambda: tensor @ tensor)
    return 2 * side**3 / min(map(min_seconds, programs))


def _torch() -> Any:
    """torch, or None if it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    return torch


def _random(shape: tuple[int, ...], dtype: str) -> jax.Array:
    """Random numbers: a GPU multiplies constant ones faster, since fewer bit flips take less power."""
    return jax.random.normal(jax.random.key(0), shape, dtype)


def min_seconds(program: Callable[[], object]) -> float:
    """Minimum seconds of a call; short calls are repeated, so that clock and dispatch do not count."""

    def seconds(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls - 1):
            program()
        jax.block_until_ready(program())  # a device runs them in order
        return (time.perf_counter() - start) / calls

    seconds(1)
    calls = max(round(_TRIAL_S / seconds(1)), 1)
    return min(seconds(calls) for _ in range(_TRIALS))


def roofline(work: Work) -> dict[str, Any]:
    """Peak rates of this machine, required FLOPs and bytes, and the bounds that follow, as JSON values."""
    inputs = np.load(work.inputs)
    patches = int(inputs["image_grid_thw"][0].prod())
    sizes = from_hf(read_json(work.model, "config.json"))
    cost = work_cost(work, sizes, prompt_length=inputs["input_ids"].shape[1], patches=patches)
    machine = measure_machine(work.dtype, int(cost.bytes_per_token))
    return {
        "machine": dataclasses.asdict(machine),
        "cost": dataclasses.asdict(cost),
        "seconds": cost.roofline_seconds(machine),
    }
