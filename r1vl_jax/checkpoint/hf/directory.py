"""A directory in Hugging Face's layout: where it is, its JSON files, and which tensor stands in which file.

Weights are read from safetensors alone. PyTorch's own files are pickles, which can run any program when they are read.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from r1vl_jax.checkpoint.hf.names import published_name

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Everything a checkpoint is made of, weights in other formats apart.
_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
_PIECES, _PIECE_SIZE = 64, 2**16  # of a file, for its fingerprint; bytes
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class Place:
    """Where a tensor stands.

    Attributes:
        name: the tensor's name in that file.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Weights:
    """What was found in the weight files of a directory.

    Attributes:
        places: published name -> where it stands, more than one place if it is there twice.
        faults: one line for each file that is not there or cannot be read, and for each tensor that a file lacks.
        lost: published names of the tensors that the index promises of such files, and of those lacking ones.
    """

    places: dict[str, list[Place]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)


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
        return Path(snapshot_download(directory_or_hub_name, allow_patterns=_PATTERNS))
    except (OSError, HFValidationError) as error:
        raise FileNotFoundError(
            f"{directory_or_hub_name!r} is no directory on this machine, and the Hugging Face hub does not give it"
            f" ({type(error).__name__}: {error}); give a directory with config.json and safetensors, or a hub name"
            " like Qwen/Qwen2-VL-2B-Instruct"
        ) from error


def read_json(directory: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        FileNotFoundError: there is no such file; lists those there are.
        ValueError: it is no JSON, or no object.
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


def find_weights(directory: Path) -> Weights:
    """Looks into the header of every weight file; no tensor is read.

    Raises:
        FileNotFoundError: there are no safetensors.
        ValueError: the index is not one, or stands beside another whole file.
    """
    weights = Weights()
    for name, promised in _files(directory).items():
        try:
            places = _places(directory / name)
        except (OSError, SafetensorError) as error:
            weights.faults.append(_unread(name, promised, error))
            weights.lost.update(map(published_name, promised))
            continue
        for place in places:
            weights.places.setdefault(published_name(place.name), []).append(place)
        for tensor in sorted({*promised} - {place.name for place in places}):
            weights.faults.append(f"absent tensor: {tensor}, which the index promises of {name}; download both again")
            weights.lost.add(published_name(tensor))
    return weights


def _places(file: Path) -> list[Place]:
    with safe_open(file, framework="numpy") as reader:
        parts = {name: reader.get_slice(name) for name in reader.keys()}  # noqa: SIM118 - the reader is no dictionary
        return [Place(file, name, tuple(part.get_shape()), part.get_dtype()) for name, part in parts.items()]


def _unread(name: str, promised: list[str], error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"absent file: {name}, which the index names for {len(promised)} tensors"
    if isinstance(error, OSError):
        return f"unreadable file: {name} ({type(error).__name__}: {error}); make it a file that you may read"
    return f"truncated or damaged file: {name} ({error}); download it again"


def _files(directory: Path) -> dict[str, list[str]]:
    """The weight files, and the tensors that the index promises of each."""
    if (directory / INDEX).is_file():
        files = _indexed(directory)
        if (directory / WHOLE).is_file() and WHOLE not in files:
            raise ValueError(
                f"{directory}: expected {WHOLE} or {INDEX}, found both, which may hold different weights (transformers"
                " would read the first); remove the one that is not meant"
            )
        return files
    if (directory / WHOLE).is_file():
        return {WHOLE: []}
    if pickles := [name for name in _listing(directory) if name.endswith(_PICKLES)]:
        raise FileNotFoundError(
            f"{directory}: expected {WHOLE} or {INDEX}, found only {pickles}: pickles, which can run any program when"
            " they are read and are never opened here; write them as safetensors first (in transformers,"
            " from_pretrained and save_pretrained)"
        )
    raise FileNotFoundError(f"{directory}: expected {WHOLE} or {INDEX}, found {_listing(directory)}")


def _indexed(directory: Path) -> dict[str, list[str]]:
    weight_map = read_json(directory, INDEX).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{directory / INDEX}: expected an object 'weight_map', got none; download it again")
    if odd := [f"{tensor}: {file!r}" for tensor, file in weight_map.items() if not _is_plain_name(file)]:
        raise ValueError(
            f"{directory / INDEX}: expected names of safetensors files in this directory; download it again, got\n  "
            + "\n  ".join(odd)
        )
    files: dict[str, list[str]] = {name: [] for name in sorted({*weight_map.values()})}
    for tensor, name in weight_map.items():
        files[name].append(tensor)
    return files


def _is_plain_name(file: Any) -> bool:
    return isinstance(file, str) and file.endswith(".safetensors") and Path(file).name == file and "\0" not in file


def _listing(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def weights_fingerprint(directory_or_hub_name: str) -> str:
    """Digest of the weight files: their names, their sizes, and pieces of each, so that 15 GB take no minute.

    "" for "".
    """
    if not directory_or_hub_name:
        return ""
    digest = hashlib.sha256()
    for path in sorted(local_directory(directory_or_hub_name).glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for piece in range(_PIECES):
                file.seek(piece * size // _PIECES)
                digest.update(file.read(_PIECE_SIZE))
    return digest.hexdigest()
