"""Writes tensors as safetensors, in one file or in shards with an index, holding one tensor in memory at a time."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from jaxtyping import DTypeLike

from r1vl_jax.checkpoint.hf.atomic_directory import PRODUCER
from r1vl_jax.checkpoint.hf.directory import INDEX, WHOLE

_CODES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
DTYPES = tuple(_CODES)


@dataclass(frozen=True)
class Entry:
    """Name and shape of a tensor that is to be written."""

    name: str
    shape: tuple[int, ...]


def write_shards(
    directory: Path, entries: Sequence[Entry], arrays: Iterator[np.ndarray], *, dtype: DTypeLike, max_shard_size: int
) -> None:
    """Writes the weight files of a checkpoint.

    Args:
        arrays: the tensors in the order of the entries, each made when it is asked for.
        dtype: one of `DTYPES`, which the tensors are rounded to.
        max_shard_size: bytes of tensors in a file; a larger tensor has a file of its own.

    Raises:
        ValueError: values that are not finite, or are too large for the dtype; lists all such tensors. The files are
            of no use then.
    """
    item_size = np.dtype(dtype).itemsize
    shards = list(_divide(entries, max_shard_size // item_size))
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = [WHOLE]
    faults: list[str] = []
    for name, shard in zip(names, shards, strict=True):
        faults += _write_file(directory / name, shard, arrays, dtype)
    if faults:
        raise ValueError(f"{directory}: these weights cannot be written:\n  " + "\n  ".join(faults))
    if len(shards) > 1:
        total_size = item_size * sum(math.prod(entry.shape) for entry in entries)
        weight_map = {entry.name: name for name, shard in zip(names, shards, strict=True) for entry in shard}
        index = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))}
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def _divide(entries: Sequence[Entry], max_items: int) -> Iterator[list[Entry]]:
    shard, num_items = [], 0
    for entry in entries:
        size = math.prod(entry.shape)
        if shard and num_items + size > max_items:
            yield shard
            shard, num_items = [], 0
        shard.append(entry)
        num_items += size
    yield shard


def _write_file(path: Path, entries: Sequence[Entry], arrays: Iterator[np.ndarray], dtype: DTypeLike) -> list[str]:
    """The format: length of the header (8 bytes), header (JSON, padded to 8), tensors end to end.

    Returns:
        One line for each tensor with a value that must not stand in a file.

    Source:
        https://huggingface.co/docs/safetensors, "Format".
    """
    header: dict = {"__metadata__": {"format": "pt", **PRODUCER}}  # transformers asks for the first
    end = 0
    for entry in entries:
        start, end = end, end + math.prod(entry.shape) * np.dtype(dtype).itemsize
        code = _CODES[np.dtype(dtype).name]
        header[entry.name] = {"dtype": code, "shape": list(entry.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    faults = []
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for entry in entries:
            array = next(arrays)
            assert array.shape == entry.shape, f"{entry.name}: promised {entry.shape}, got {array.shape}"
            with np.errstate(over="ignore"):  # told below, by name
                rounded = np.ascontiguousarray(array, dtype)
            faults += _not_finite(entry.name, array, rounded)
            file.write(rounded.view(np.uint8).data)
    return faults


def _not_finite(name: str, array: np.ndarray, rounded: np.ndarray) -> Iterator[str]:
    """What is wrong with a tensor, from its values before and after rounding; usually nothing, after one look."""
    if np.isfinite(rounded).all():
        return
    if num_broken := array.size - np.count_nonzero(np.isfinite(array)):
        yield f"{name}: expected finite values, got {num_broken} NaN or infinite; take a checkpoint before them"
    else:
        limit, largest = float(ml_dtypes.finfo(rounded.dtype).max), float(np.abs(array).max())
        expected = f"expected at most {limit:.6g}, the limit of {rounded.dtype}"
        yield f"{name}: {expected}, got {largest:.6g}; write it as float32"
