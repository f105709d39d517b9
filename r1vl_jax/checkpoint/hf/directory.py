"""A checkpoint directory in Hugging Face's layout: finding it, its JSON files, and the tensors of its weight files.

Weights are read only from safetensors. PyTorch's own files are pickles, and unpickling can execute any code.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from r1vl_jax.checkpoint.hf.names import published_name

SINGLE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# The files of a checkpoint to download: all but weights in other formats.
_DOWNLOADED = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
_NUM_SAMPLES, _SAMPLE_SIZE = 64, 2**16  # of a weight file, for its fingerprint; the size is in bytes
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class TensorLocation:
    """A tensor in a weight file.

    Attributes:
        name: the tensor's name in that file.
        dtype: safetensors' name of it, as "BF16".
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class WeightFiles:
    """The tensors in the weight files of a directory.

    Attributes:
        locations: published name -> its locations; more than one if the tensor is repeated.
        faults: one line for each file that is absent or unreadable, and for each tensor that is not in the file which
            the index names.
        unreadable: published names of the tensors that these faults concern.
    """

    locations: dict[str, list[TensorLocation]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    unreadable: set[str] = field(default_factory=set)


def local_directory(directory_or_hub_name: str) -> Path:
    """The directory if it exists, else a snapshot of the model with that name on the Hugging Face hub.

    Raises:
        FileNotFoundError: there is neither.
    """
    if (directory := Path(directory_or_hub_name).expanduser()).is_dir():
        return directory
    # Imported here because local files do not need the hub client.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(directory_or_hub_name, allow_patterns=_DOWNLOADED))
    except (OSError, HFValidationError) as error:
        raise FileNotFoundError(
            f"{directory_or_hub_name!r} is no directory on this machine, and the Hugging Face hub does not give it"
            f" ({type(error).__name__}: {error}); give a directory with config.json and safetensors, or a hub name"
            " like Qwen/Qwen2-VL-2B-Instruct"
        ) from error


def read_json(directory: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        FileNotFoundError: there is no such file; lists the files of the directory.
        ValueError: the content is no JSON, or no object.
    """
    if not (path := directory / name).is_file():
        raise FileNotFoundError(f"{directory}: expected {name}, found {_listing(directory)}")
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, got something else ({error}); download it again") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}; download it again")
    return value


def scan_weights(directory: Path) -> WeightFiles:
    """Reads the header of every weight file, and no tensor.

    Raises:
        FileNotFoundError: there are no safetensors.
        ValueError: the index is invalid, or there is a single weight file beside it that it does not name.
    """
    weights = WeightFiles()
    for name, indexed in _weight_files(directory).items():
        try:
            locations = _read_header(directory / name)
        except (OSError, SafetensorError) as error:
            weights.faults.append(_file_fault(name, indexed, error))
            weights.unreadable.update(map(published_name, indexed))
            continue
        for location in locations:
            weights.locations.setdefault(published_name(location.name), []).append(location)
        for tensor in sorted({*indexed} - {location.name for location in locations}):
            weights.faults.append(f"absent tensor: {tensor}, which the index promises of {name}; download both again")
            weights.unreadable.add(published_name(tensor))
    return weights


def _read_header(file: Path) -> list[TensorLocation]:
    with safe_open(file, framework="numpy") as reader:
        tensors = {name: reader.get_slice(name) for name in reader.keys()}  # noqa: SIM118 - the reader is no dictionary
        return [TensorLocation(file, name, tuple(each.get_shape()), each.get_dtype()) for name, each in tensors.items()]


def _file_fault(name: str, indexed: list[str], error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"absent file: {name}, which the index names for {len(indexed)} tensors"
    if isinstance(error, OSError):
        return f"unreadable file: {name} ({type(error).__name__}: {error}); make it a file that you may read"
    return f"truncated or damaged file: {name} ({error}); download it again"


def _weight_files(directory: Path) -> dict[str, list[str]]:
    """The weight files by name, with the tensors that the index assigns to each."""
    if (directory / INDEX).is_file():
        files = _read_index(directory)
        if (directory / SINGLE_FILE).is_file() and SINGLE_FILE not in files:
            raise ValueError(
                f"{directory}: expected {SINGLE_FILE} or {INDEX}, found both, which may hold different weights"
                " (transformers would read the first); remove the one that is not meant"
            )
        return files
    if (directory / SINGLE_FILE).is_file():
        return {SINGLE_FILE: []}
    if pickles := [name for name in _listing(directory) if name.endswith(_PICKLES)]:
        raise FileNotFoundError(
            f"{directory}: expected {SINGLE_FILE} or {INDEX}, found only {pickles}: pickles, which can run any program"
            " when they are read and are never opened here; write them as safetensors first (in transformers,"
            " from_pretrained and save_pretrained)"
        )
    raise FileNotFoundError(f"{directory}: expected {SINGLE_FILE} or {INDEX}, found {_listing(directory)}")


def _read_index(directory: Path) -> dict[str, list[str]]:
    weight_map = read_json(directory, INDEX).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{directory / INDEX}: expected an object 'weight_map', got none; download it again")
    if invalid := [f"{tensor}: {file!r}" for tensor, file in weight_map.items() if not _is_file_name(file)]:
        raise ValueError(
            f"{directory / INDEX}: expected names of safetensors files in this directory; download it again, got\n  "
            + "\n  ".join(invalid)
        )
    files: dict[str, list[str]] = {name: [] for name in sorted({*weight_map.values()})}
    for tensor, name in weight_map.items():
        files[name].append(tensor)
    return files


def _is_file_name(file: Any) -> bool:
    """Whether it names a safetensors file in the directory itself, and no path to another place."""
    return isinstance(file, str) and file.endswith(".safetensors") and Path(file).name == file and "\0" not in file


def _listing(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def weights_fingerprint(directory_or_hub_name: str) -> str:
    """Digest of the weight files' names, sizes and samples of their content, since hashing 15 GB would take minutes.

    Returns:
        The digest; "" for a run from random weights, whose directory is "".
    """
    if not directory_or_hub_name:
        return ""
    digest = hashlib.sha256()
    for path in sorted(local_directory(directory_or_hub_name).glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for sample in range(_NUM_SAMPLES):
                file.seek(sample * size // _NUM_SAMPLES)
                digest.update(file.read(_SAMPLE_SIZE))
    return digest.hexdigest()
