"""Loads a Hugging Face checkpoint: `config.json`, and weights from one safetensors file or from shards.

Tensors go one at a time from the file to the devices, which transpose and cast them, so the host holds at most one.
Loading is strict: files that are absent or damaged, and tensors that are missing, extra, repeated or of another shape
are listed in one error.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, UInt
from safetensors import safe_open

from r1vl_jax.arrays import Params
from r1vl_jax.checkpoint.hf.config import from_hf
from r1vl_jax.checkpoint.hf.directory import TensorLocation, WeightFiles, local_directory, read_json, scan_weights
from r1vl_jax.checkpoint.hf.names import Tensor, tensors_of, to_parameter
from r1vl_jax.models.qwen2_vl.config import Config
from r1vl_jax.models.qwen2_vl.model import Definition

_DTYPES = ("BF16", "F16", "F32", "F64")
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_ROWS_PER_COMPARISON = 4096


def read_config(directory_or_hub_name: str) -> Config:
    """The model configuration in a checkpoint's `config.json`.

    Raises:
        FileNotFoundError: there is no such directory or file, on this machine or on the hub.
        ValueError: the model is neither a Qwen2-VL nor a Qwen2.5-VL.
    """
    return from_hf(read_json(local_directory(directory_or_hub_name), "config.json"))


def load_params(
    directory_or_hub_name: str, definition: Definition, *, placement: Any, dtype: str = "float32"
) -> Params:
    """The parameters of a checkpoint, on their devices.

    Args:
        placement: a `NamedSharding` for every parameter, from `sharding.rules.shardings`.
        dtype: of the parameters; tensors of another dtype are cast.

    Raises:
        FileNotFoundError: there is no such directory, or no safetensors in it.
        ValueError: files are absent or damaged, or tensors missing, extra, repeated or misshapen; lists all of them.
    """
    reader = ParameterReader(directory_or_hub_name, definition)
    leaves, treedef = jax.tree.flatten(placement)
    shardings = dict(zip(reader.paths, leaves, strict=True))
    # The largest first: temporary buffers are then small at the end, when the devices are full.
    order = sorted(reader.paths, key=lambda path: -math.prod(reader.tensors[path][0].shape))
    loaded = {path: reader.read(path, dtype, shardings[path]) for path in order}
    return treedef.unflatten([loaded[path] for path in reader.paths])


def clear_jit_caches() -> None:
    """Frees the programs that loading compiled, one for each shape; another load compiles them again."""
    for program in (_fill, _from_bits):
        program.clear_cache()  # pyright: ignore[reportAttributeAccessIssue]


class ParameterReader:
    """Reads a checkpoint one parameter at a time.

    Attributes:
        paths: of all parameters, as `text.norm.scale`, in the order of the tree's leaves.
        tensors: path -> the tensors that the parameter consists of.
    """

    def __init__(self, directory_or_hub_name: str, definition: Definition):
        """Reads the headers of all files. Raises what `load_params` raises, before any parameter is read."""
        directory = local_directory(directory_or_hub_name)
        self._weights = scan_weights(directory)
        leaves = jax.tree_util.tree_leaves_with_path(definition.abstract_params())
        self._shapes = {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape for path, leaf in leaves}
        self.paths = list(self._shapes)
        self.tensors = {path: list(tensors_of(path, shape, definition.config)) for path, shape in self._shapes.items()}
        if definition.config.tie_word_embeddings:
            _drop_tied_head(self._weights)
        if faults := _faults([tensor for tensors in self.tensors.values() for tensor in tensors], self._weights):
            listing = "\n  ".join(faults)
            raise ValueError(f"{directory}: the weights are not those of this configuration:\n  {listing}")

    def read(self, path: str, dtype: str, sharding: NamedSharding) -> Array:
        """One parameter, cast to `dtype` and placed."""
        return _parameter(self._shapes[path], dtype, self.tensors[path], self._weights, sharding)


def _drop_tied_head(weights: WeightFiles) -> None:
    """Some checkpoints with tied embeddings store the embedding again as the head; it is ignored if it is equal."""
    heads, embeddings = (weights.locations.get(name, []) for name in (_HEAD, _EMBEDDING))
    if len(heads) == len(embeddings) == 1 and _is_equal(heads[0], embeddings[0]):
        del weights.locations[_HEAD]


def _is_equal(first: TensorLocation, second: TensorLocation) -> bool:
    """Compares a block of rows at a time, to bound the memory."""
    num_rows = first.shape[0]
    starts = range(0, num_rows, _ROWS_PER_COMPARISON)
    blocks = [(slice(start, min(start + _ROWS_PER_COMPARISON, num_rows)),) for start in starts]
    return first.shape == second.shape and all(
        np.array_equal(_read(first, rows), _read(second, rows)) for rows in blocks
    )


def _faults(tensors: list[Tensor], weights: WeightFiles) -> list[str]:
    return [*weights.faults, *sorted(_tensor_faults({tensor.name: tensor for tensor in tensors}, weights))]


def _tensor_faults(expected: dict[str, Tensor], weights: WeightFiles) -> Iterator[str]:
    # Without an index, the tensors of an unreadable file are unknown, and none can be called missing.
    if not (weights.faults and not weights.unreadable):
        for name in expected.keys() - weights.locations.keys() - weights.unreadable:
            yield f"missing: {name} {list(expected[name].shape)}"
    for name, found in weights.locations.items():
        location = found[0]
        if name not in expected:
            tied = " though the configuration ties it to the embedding" if name == _HEAD else ""
            yield f"extra: {name} (in {location.file.name}){tied}"
        elif len(found) > 1:
            yield f"repeated: {name} (as " + ", ".join(f"{each.name} in {each.file.name}" for each in found) + ")"
        elif location.shape != expected[name].shape:
            yield f"misshapen: {name}: expected {list(expected[name].shape)}, got {list(location.shape)}"
        elif location.dtype not in _DTYPES:
            yield f"of another type: {name}: expected one of {', '.join(_DTYPES)}, got {location.dtype}"


def _parameter(
    shape: tuple[int, ...], dtype: str, tensors: list[Tensor], weights: WeightFiles, sharding: NamedSharding
) -> Array:
    """Fills one parameter on its devices, layer by layer if it is stacked.

    A bfloat16 parameter is filled as uint16: XLA for CPU would convert all of it to float32 and back for every layer.
    """
    is_bits = dtype == "bfloat16"
    bits = jnp.zeros(shape, "uint16" if is_bits else dtype, device=sharding)
    for tensor in tensors:
        (location,) = weights.locations[tensor.name]
        read = partial(_read, location)
        value = jax.make_array_from_callback(tensor.shape, _tensor_sharding(tensor, sharding), read)
        layer = None if tensor.layer is None else np.int32(tensor.layer)
        bits = _fill(bits, value, layer, dtype=dtype, is_transposed=tensor.is_transposed, sharding=sharding)
        bits.block_until_ready()  # dispatch is asynchronous: without it, tensors would queue up in memory
    return _from_bits(bits, dtype=dtype) if is_bits else bits


def _tensor_sharding(tensor: Tensor, sharding: NamedSharding) -> NamedSharding:
    """The sharding of a tensor that puts each element on the device that needs it for the parameter.

    The rows of the patch convolution's kernel are several dimensions of its tensor, which are not sharded.
    """
    num_dims = 2 if tensor.is_transposed else len(tensor.shape)
    num_layer_dims = 0 if tensor.layer is None else 1
    axes = (*sharding.spec, *[None] * (num_layer_dims + num_dims - len(sharding.spec)))[num_layer_dims:]
    if tensor.is_transposed:
        axes = axes[::-1] if len(tensor.shape) == num_dims else axes[:0:-1]
    return NamedSharding(sharding.mesh, PartitionSpec(*axes))


@partial(jax.jit, static_argnames="dtype")
def _from_bits(bits: UInt[Array, "..."], *, dtype: str) -> Float[Array, "..."]:
    return jax.lax.bitcast_convert_type(bits, dtype)


@partial(jax.jit, donate_argnums=0, static_argnames=("dtype", "is_transposed", "sharding"))
def _fill(
    bits: Float[Array, "..."] | UInt[Array, "..."],
    tensor: Float[Array, "..."],
    layer: Int[Array, ""] | None,
    *,
    dtype: str,
    is_transposed: bool,
    sharding: NamedSharding,
) -> Float[Array, "..."] | UInt[Array, "..."]:
    values = to_parameter(tensor, is_transposed=is_transposed).astype(dtype)
    filled = bits.at[... if layer is None else layer].set(jax.lax.bitcast_convert_type(values, bits.dtype))
    return jax.lax.with_sharding_constraint(filled, sharding)


def _read(location: TensorLocation, index: Any) -> np.ndarray:
    """A slice of a tensor, in the file's dtype. The file is closed again, so that its pages do not stay mapped."""
    with safe_open(location.file, framework="numpy") as reader:
        return reader.get_slice(location.name)[index]
