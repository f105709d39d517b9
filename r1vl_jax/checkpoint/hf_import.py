"""Reads weights and sizes of a Hugging Face checkpoint: `config.json` and safetensors, whole or in shards.

Strict: a tensor that is missing, extra, present twice or of another shape is an error, and one error lists them all.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from safetensors import safe_open

from r1vl_jax.checkpoint.hf_config import from_hf
from r1vl_jax.checkpoint.hf_names import Tensor, published_name, tensors_of
from r1vl_jax.models.qwen2_vl.config import Config
from r1vl_jax.models.qwen2_vl.model import Definition, Params

_WHOLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"

# published name -> where it stands: (file, name in that file), more than one if it is there twice.
Places = dict[str, list[tuple[Path, str]]]


def read_config(directory_or_hub_name: str) -> Config:
    """The sizes in a checkpoint's `config.json`.

    Raises:
        FileNotFoundError: there is no such directory or file, on this machine or on the hub.
        ValueError: the model is neither a Qwen2-VL nor a Qwen2.5-VL.
    """
    return from_hf(json.loads(_file(local_directory(directory_or_hub_name), "config.json").read_text("utf-8")))


def load_params(directory_or_hub_name: str, definition: Definition) -> Params:
    """The weights of a checkpoint, as float32 NumPy arrays; the caller places them on devices.

    Raises:
        FileNotFoundError: there is no such directory, or no safetensors in it.
        ValueError: tensors are missing, extra, repeated or misshapen; lists all of them.
    """
    directory = local_directory(directory_or_hub_name)
    places = _places(directory)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(definition.abstract_params())
    shapes = {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape for path, leaf in leaves}
    wanted = {path: list(tensors_of(path, shape, definition.config)) for path, shape in shapes.items()}

    tensors = [tensor for tensors in wanted.values() for tensor in tensors]
    if faults := sorted(_faults(tensors, places)):
        listing = "\n  ".join(faults)
        raise ValueError(f"{directory}: the tensors are not those of this configuration:\n  {listing}")
    return treedef.unflatten([_parameter(shapes[path], wanted[path], places) for path in shapes])


def local_directory(directory_or_hub_name: str) -> Path:
    """The directory itself if it exists, else a snapshot of that name from the Hugging Face hub.

    Raises:
        FileNotFoundError: it is neither.
    """
    if (directory := Path(directory_or_hub_name).expanduser()).is_dir():
        return directory
    # Here, not above: local files need no hub client.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(directory_or_hub_name, allow_patterns=["*.json", "*.safetensors", "*.txt"]))
    except (OSError, HFValidationError) as error:
        raise FileNotFoundError(
            f"{directory_or_hub_name!r} is no directory on this machine, and the Hugging Face hub does not give it"
            f" ({type(error).__name__}: {error}); give a directory with config.json and safetensors, or a hub name"
            " like Qwen/Qwen2-VL-2B-Instruct"
        ) from error


def _file(directory: Path, name: str) -> Path:
    if not (path := directory / name).is_file():
        raise FileNotFoundError(f"{directory}: expected {name}, found {sorted(p.name for p in directory.iterdir())}")
    return path


def _places(directory: Path) -> Places:
    if (directory / _INDEX).is_file():
        weight_map = json.loads((directory / _INDEX).read_text("utf-8"))["weight_map"]
        files = [_file(directory, name) for name in sorted(set(weight_map.values()))]
    else:
        files = [_file(directory, _WHOLE)]
    places: Places = {}
    for file in files:
        with safe_open(file, framework="numpy") as reader:
            for name in reader.keys():  # noqa: SIM118 - the reader is no dictionary
                places.setdefault(published_name(name), []).append((file, name))
    return places


def _faults(tensors: list[Tensor], places: Places) -> Iterator[str]:
    expected = {tensor.name: tensor for tensor in tensors}
    for name in expected.keys() - places.keys():
        yield f"missing: {name} {list(expected[name].shape)}"
    for name in places.keys() - expected.keys():
        yield f"extra: {name} (in {places[name][0][0].name})"
    for name, found in places.items():
        if len(found) > 1:
            yield f"repeated: {name} (as " + ", ".join(f"{given} in {file.name}" for file, given in found) + ")"
        elif name in expected and (shape := _shape(*found[0])) != expected[name].shape:
            yield f"misshapen: {name}: expected {list(expected[name].shape)}, got {list(shape)}"


def _shape(file: Path, name: str) -> tuple[int, ...]:
    with safe_open(file, framework="numpy") as reader:
        return tuple(reader.get_slice(name).get_shape())


def _parameter(shape: tuple[int, ...], tensors: list[Tensor], places: Places) -> np.ndarray:
    """Fills one parameter layer by layer, so that no more than one tensor is in memory twice."""
    parameter = np.empty(shape, np.float32)
    for tensor in tensors:
        (place,) = places[tensor.name]
        parameter[... if tensor.layer is None else tensor.layer] = tensor.to_parameter(_read(*place))
    return parameter


def _read(file: Path, name: str) -> np.ndarray:
    with safe_open(file, framework="numpy") as reader:
        return reader.get_tensor(name)
