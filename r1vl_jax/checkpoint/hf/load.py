"""Reads weights and sizes of a Hugging Face checkpoint: `config.json` and safetensors, whole or in shards.

Tensors go one by one from the file to the devices, which cast and transpose them: the host never holds more than one.
Strict: a file that is absent or damaged, a tensor that is missing, extra, repeated or of another shape is an error, and
one error lists them all.
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
from r1vl_jax.checkpoint.hf.directory import Place, Weights, find_weights, local_directory, read_json
from r1vl_jax.checkpoint.hf.names import Tensor, tensors_of, to_parameter
from r1vl_jax.models.qwen2_vl.config import Config
from r1vl_jax.models.qwen2_vl.model import Definition

_DTYPES = ("BF16", "F16", "F32", "F64")
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_ROWS_COMPARED = 4096


def read_config(directory_or_hub_name: str) -> Config:
    """The sizes in a checkpoint's `config.json`.

    Raises:
        FileNotFoundError: there is no such directory or file, on this machine or on the hub.
        ValueError: the model is neither a Qwen2-VL nor a Qwen2.5-VL.
    """
    return from_hf(read_json(local_directory(directory_or_hub_name), "config.json"))


def load_params(
    directory_or_hub_name: str, definition: Definition, *, placement: Any, dtype: str = "float32"
) -> Params:
    """The weights of a checkpoint, placed on their devices.

    Args:
        placement: a `NamedSharding` for every parameter, as `sharding.shardings` gives them.
        dtype: of the parameters, whatever that of the file.

    Raises:
        FileNotFoundError: there is no such directory, or no safetensors in it.
        ValueError: files are absent or damaged, or tensors missing, extra, repeated or misshapen; lists all of them.
    """
    reader = ParameterReader(directory_or_hub_name, definition)
    leaves, treedef = jax.tree.flatten(placement)
    shardings = dict(zip(reader.paths, leaves, strict=True))
    # The largest tensors first: what is passing through at the end, when the devices are full, is small.
    order = sorted(reader.paths, key=lambda path: -math.prod(reader.tensors[path][0].shape))
    loaded = {path: reader.read(path, dtype, shardings[path]) for path in order}
    return treedef.unflatten([loaded[path] for path in reader.paths])


def clear_jit_caches() -> None:
    """Gives back what loading compiled, a program for every shape; another load would compile them again."""
    for program in (_fill, _from_bits):
        program.clear_cache()  # pyright: ignore[reportAttributeAccessIssue]


class ParameterReader:
    """Reads the weights of a checkpoint parameter by parameter.

    Attributes:
        paths: of all parameters, as `text.norm.scale`, in the order of the tree's leaves.
        tensors: those that each parameter is made of.
    """

    def __init__(self, directory_or_hub_name: str, definition: Definition):
        """Looks at every file's header. Raises as `load_params` does, now and not when a parameter is read."""
        directory = local_directory(directory_or_hub_name)
        self._weights = find_weights(directory)
        leaves = jax.tree_util.tree_leaves_with_path(definition.abstract_params())
        self._shapes = {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape for path, leaf in leaves}
        self.paths = list(self._shapes)
        self.tensors = {path: list(tensors_of(path, shape, definition.config)) for path, shape in self._shapes.items()}
        if definition.config.tie_word_embeddings:
            _drop_second_copy(self._weights)
        if faults := _faults([tensor for tensors in self.tensors.values() for tensor in tensors], self._weights):
            listing = "\n  ".join(faults)
            raise ValueError(f"{directory}: the weights are not those of this configuration:\n  {listing}")

    def read(self, path: str, dtype: str, sharding: NamedSharding) -> Array:
        """One parameter in the given dtype, whatever that of the file, placed."""
        return _parameter(self._shapes[path], dtype, self.tensors[path], self._weights, sharding)


def _drop_second_copy(weights: Weights) -> None:
    """Some tied checkpoints hold the embedding again as a head; it is left out if it is equal."""
    places = [weights.places.get(name, []) for name in (_HEAD, _EMBEDDING)]
    if all(len(found) == 1 for found in places) and _is_equal(places[0][0], places[1][0]):
        del weights.places[_HEAD]


def _is_equal(first: Place, second: Place) -> bool:
    """Compares some rows at a time."""
    num_rows = first.shape[0]
    blocks = [(slice(start, min(start + _ROWS_COMPARED, num_rows)),) for start in range(0, num_rows, _ROWS_COMPARED)]
    return first.shape == second.shape and all(
        np.array_equal(_read(first, rows), _read(second, rows)) for rows in blocks
    )


def _faults(tensors: list[Tensor], weights: Weights) -> list[str]:
    return [*weights.faults, *sorted(_faults_of_tensors({tensor.name: tensor for tensor in tensors}, weights))]


def _faults_of_tensors(expected: dict[str, Tensor], weights: Weights) -> Iterator[str]:
    # An unreadable file without an index: nobody knows what it held.
    if not (weights.faults and not weights.lost):
        for name in expected.keys() - weights.places.keys() - weights.lost:
            yield f"missing: {name} {list(expected[name].shape)}"
    for name, found in weights.places.items():
        place = found[0]
        if name not in expected:
            tied = " though the configuration ties it to the embedding" if name == _HEAD else ""
            yield f"extra: {name} (in {place.file.name}){tied}"
        elif len(found) > 1:
            yield f"repeated: {name} (as " + ", ".join(f"{each.name} in {each.file.name}" for each in found) + ")"
        elif place.shape != expected[name].shape:
            yield f"misshapen: {name}: expected {list(expected[name].shape)}, got {list(place.shape)}"
        elif place.dtype not in _DTYPES:
            yield f"of another type: {name}: expected one of {', '.join(_DTYPES)}, got {place.dtype}"


def _parameter(
    shape: tuple[int, ...], dtype: str, tensors: list[Tensor], weights: Weights, sharding: NamedSharding
) -> Array:
    """Fills one parameter on its devices, layer by layer if it is stacked.

    A bfloat16 parameter is filled as bits: XLA for CPU would turn all of it into float32 and back for every layer.
    """
    is_bits = dtype == "bfloat16"
    bits = jnp.zeros(shape, "uint16" if is_bits else dtype, device=sharding)
    for tensor in tensors:
        (place,) = weights.places[tensor.name]
        value = jax.make_array_from_callback(tensor.shape, _sharding_of_tensor(tensor, sharding), partial(_read, place))
        layer = None if tensor.layer is None else np.int32(tensor.layer)
        bits = _fill(bits, value, layer, dtype=dtype, is_transposed=tensor.is_transposed, sharding=sharding)
        bits.block_until_ready()  # or tensors would queue up in memory
    return _from_bits(bits, dtype=dtype) if is_bits else bits


def _sharding_of_tensor(tensor: Tensor, sharding: NamedSharding) -> NamedSharding:
    """So that every device receives the part of the tensor that goes into its part of the parameter.

    The rows of a convolution's kernel are several dimensions of its tensor; those stay whole.
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
    part = to_parameter(tensor, is_transposed=is_transposed).astype(dtype)
    filled = bits.at[... if layer is None else layer].set(jax.lax.bitcast_convert_type(part, bits.dtype))
    return jax.lax.with_sharding_constraint(filled, sharding)


def _read(place: Place, index: Any) -> np.ndarray:
    """Part of a tensor, in the file's dtype. The file is open only meanwhile: what was read of it stays in memory."""
    with safe_open(place.file, framework="numpy") as reader:
        return reader.get_slice(place.name)[index]
