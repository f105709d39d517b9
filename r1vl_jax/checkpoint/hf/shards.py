"""Writes tensors as safetensors, in one file or in shards with an index, holding one tensor in memory at a time."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from huggingface_hub import split_state_dict_into_shards_factory
from jaxtyping import DTypeLike

from r1vl_jax.checkpoint.hf.atomic_directory import PRODUCER
from r1vl_jax.checkpoint.hf.directory import INDEX

_CODES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
DTYPES = tuple(_CODES)


@dataclass(frozen=True)
class TensorSpec:
    """Name and shape of a tensor to write."""

    name: str
    shape: tuple[int, ...]

    def num_bytes(self, dtype: DTypeLike) -> int:
        return math.prod(self.shape) * np.dtype(dtype).itemsize


def write_shards(
    directory: Path, specs: Sequence[TensorSpec], arrays: Iterable[np.ndarray], *, dtype: DTypeLike, max_shard_size: int
) -> None:
    """Writes the weight files of a checkpoint.

    Args:
        arrays: the tensors in the order of `specs`, each computed on demand.
        dtype: one of `DTYPES`, which the tensors are rounded to.
        max_shard_size: bytes of tensors in a file; a larger tensor has a file to itself.

    Raises:
        ValueError: values that are not finite, or exceed the range of the dtype; lists all such tensors. The files are
            unusable then.
    """
    shards = split_state_dict_into_shards_factory(
        {spec.name: spec for spec in specs},
        get_storage_size=lambda spec: spec.num_bytes(dtype),
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_size,
    )
    spec_of = {spec.name: spec for spec in specs}
    for file, names in shards.filename_to_tensors.items():
        (directory / file).write_bytes(_header([spec_of[name] for name in names], dtype))
    faults: list[str] = []
    for spec, array in zip(specs, arrays, strict=True):
        faults += _append(directory / shards.tensor_to_filename[spec.name], spec, array, dtype)
    if faults:
        raise ValueError(f"{directory}: these weights cannot be written:\n  " + "\n  ".join(faults))
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": dict(sorted(shards.tensor_to_filename.items()))}
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def _header(specs: Iterable[TensorSpec], dtype: DTypeLike) -> bytes:
    """The start of a safetensors file: the length of the header (8 bytes), and the header as JSON, padded to 8 bytes.

    The tensors follow in the order of `specs`, without gaps.

    Source:
        https://huggingface.co/docs/safetensors, "Format".
    """
    header: dict = {"__metadata__": {"format": "pt", **PRODUCER}}  # transformers requires "format"
    end = 0
    for spec in specs:
        start, end = end, end + spec.num_bytes(dtype)
        code = _CODES[np.dtype(dtype).name]
        header[spec.name] = {"dtype": code, "shape": list(spec.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded


def _append(path: Path, spec: TensorSpec, array: np.ndarray, dtype: DTypeLike) -> Iterator[str]:
    """Appends a tensor to its file; yields a line if it has values that must not be written."""
    assert array.shape == spec.shape, f"{spec.name}: expected {spec.shape}, got {array.shape}"
    with np.errstate(over="ignore"):  # reported below, by name
        rounded = np.ascontiguousarray(array, dtype)
    with path.open("ab") as file:
        file.write(rounded.view(np.uint8).data)
    yield from _range_faults(spec.name, array, rounded)


def _range_faults(name: str, array: np.ndarray, rounded: np.ndarray) -> Iterator[str]:
    """Values of a tensor that are not finite before, or after, rounding; usually none, and one pass finds that."""
    if np.isfinite(rounded).all():
        return
    if num_broken := array.size - np.count_nonzero(np.isfinite(array)):
        yield f"{name}: expected finite values, got {num_broken} NaN or infinite; take a checkpoint before them"
    else:
        limit, largest = float(ml_dtypes.finfo(rounded.dtype).max), float(np.abs(array).max())
        expected = f"expected at most {limit:.6g}, the limit of {rounded.dtype}"
        yield f"{name}: {expected}, got {largest:.6g}; write it as float32"
