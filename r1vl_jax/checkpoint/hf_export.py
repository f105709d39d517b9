"""Writes a run's model as a directory that transformers opens as it is.

    python -m r1vl_jax.checkpoint.hf_export --run=WORKDIR --out=DIR [--stage=warmup] [--dtype=bfloat16]
        [--max_shard_size=5GB]
    python -m r1vl_jax.checkpoint.hf_export --run=WORKDIR --out=DIR --adapter

Weights are those of the newest checkpoint of the run's last stage, or of `--stage`, read and written one parameter at a
time; a run with adapters gives the whole model with these folded in, or with `--adapter` the adapters alone, for PEFT.
All other files are those of the model that the run started from; a run from random weights gets files of its own.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from absl import app, flags
from etils import epath
from jaxtyping import Array
from ml_collections import ConfigDict

from r1vl_jax import config
from r1vl_jax.checkpoint.hf_directory import local_directory, weights_fingerprint
from r1vl_jax.checkpoint.hf_files import copy_files, write_files
from r1vl_jax.checkpoint.hf_names import Tensor, tensors_of
from r1vl_jax.checkpoint.hf_shards import DTYPES, Entry, write_shards
from r1vl_jax.checkpoint.manager import newest_params
from r1vl_jax.checkpoint.model_config import model_config
from r1vl_jax.checkpoint.peft import save_adapter
from r1vl_jax.checkpoint.replacing import replacing
from r1vl_jax.checkpoint.trained import trained_params, whole_model
from r1vl_jax.data import vocabulary
from r1vl_jax.models.qwen2_vl.config import Config
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.observe import check_fingerprint
from r1vl_jax.observe.files import read_json
from r1vl_jax.trainable import adapted

MAX_SHARD_SIZE = 5 * 10**9  # bytes, as transformers' own shards were for long


def export_run(
    run: epath.PathLike,
    out: str | os.PathLike,
    *,
    stage: str = "",
    dtype: str = "bfloat16",
    max_shard_size: int = MAX_SHARD_SIZE,
) -> None:
    """Exports the newest checkpoint of a run.

    Args:
        run: the run's workdir.
        out: a directory, made if absent; an export that is there already is replaced once the new one is whole.
        stage: which stage's newest checkpoint; "" is the last stage that has one.

    Raises:
        FileNotFoundError: there is no run, or it has no checkpoint yet.
        ValueError: the weights that the run started from are others now.
        FileExistsError: `out` is there and is no export, holds files of the user's own, or is the model that the run
            started from.
        OSError: there is no room; what was there is untouched.
    """
    settings = _settings(epath.Path(run))
    tokenizer = vocabulary.load_tokenizer(settings.model.path or epath.Path(run) / "tokenizer")
    sizes = model_config(settings.model, tokenizer)
    definition = _definition(sizes, settings.model)
    with (
        replacing(_checked(Path(out), settings.model.path)) as unfinished,
        newest_params(_checkpoints(epath.Path(run), settings, stage)) as saved,
    ):
        if settings.model.path:
            copy_files(local_directory(settings.model.path), unfinished, dtype=dtype)
        else:
            write_files(
                unfinished,
                sizes,
                tokenizer,
                eos_token_ids=vocabulary.eos_token_ids(tokenizer),
                min_pixels=settings.data.min_pixels,
                max_pixels=settings.data.max_pixels,
                dtype=dtype,
            )
        parameter = whole_model(settings, definition, saved)
        write_weights(unfinished, sizes, parameter, dtype=dtype, max_shard_size=max_shard_size)


def export_adapter(run: epath.PathLike, out: str | os.PathLike, *, stage: str = "") -> None:
    """Exports the adapters of a run's newest checkpoint, in PEFT's format; `stage` as for `export_run`.

    Raises:
        FileNotFoundError: there is no run, or it has no checkpoint yet.
        ValueError: the run trains no adapters.
    """
    settings = _settings(epath.Path(run))
    tokenizer = vocabulary.load_tokenizer(settings.model.path or epath.Path(run) / "tokenizer")
    definition = _definition(model_config(settings.model, tokenizer), settings.model)
    with newest_params(_checkpoints(epath.Path(run), settings, stage)) as saved:
        trained = trained_params(settings, definition, saved)
    with replacing(_checked(Path(out), settings.model.path)) as unfinished:
        save_adapter(unfinished, trained, definition, base_model=settings.model.path)


def _definition(sizes: Config, model: config.Model) -> Definition:
    base = Definition(sizes, model.dtype)
    return dataclasses.replace(base, lora=adapted(base, model))


def write_weights(
    directory: Path, sizes: Config, parameter: Callable[[str], Array], *, dtype: str, max_shard_size: int
) -> None:
    """Writes the weight files alone.

    Args:
        parameter: gives a parameter by its path, as `text.norm.scale`; asked for one after another.
        dtype: of the files, one of `hf_shards.DTYPES`.
        max_shard_size: bytes of a file.
    """
    leaves = jax.tree_util.tree_leaves_with_path(Definition(sizes).abstract_params())
    shapes = {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape for path, leaf in leaves}
    tensors = {path: list(tensors_of(path, shape, sizes)) for path, shape in shapes.items()}
    arrays = (array for path in tensors for array in _arrays(parameter(path), tensors[path]))
    entries = [Entry(tensor.name, tensor.shape) for path in tensors for tensor in tensors[path]]
    write_shards(directory, entries, arrays, dtype=dtype, max_shard_size=max_shard_size)


def _arrays(parameter: Array, tensors: list[Tensor]) -> Iterator[np.ndarray]:
    host = np.asarray(parameter)
    for tensor in tensors:
        yield tensor.from_parameter(host if tensor.layer is None else host[tensor.layer])


def _settings(run: epath.Path) -> config.Config:
    """The run's configuration; its checkpoints may hold no more than what was added to the weights it began with."""
    manifest = read_json(run / "manifest.json")
    if not manifest:
        raise FileNotFoundError(
            f"{run}: no run here (expected manifest.json); give --run the workdir of r1vl_jax.train"
        )
    settings = config.resolve(ConfigDict(manifest["configuration"]))
    check_fingerprint(run, "weights", weights_fingerprint(settings.model.path))
    return settings


def _checkpoints(run: epath.Path, settings: config.Config, stage: str) -> epath.Path:
    """The checkpoints of a stage; of the last that has begun to write any if none is named."""
    stages = (stage,) if stage else settings.train.stages
    for name in reversed(stages):
        if (directory := run / "checkpoints" / name).exists():
            return directory
    raise FileNotFoundError(
        f"{run}: no checkpoint of {' or '.join(stages)} yet (the run's stages: {', '.join(settings.train.stages)});"
        " train first"
    )


def _checked(out: Path, base: str) -> Path:
    """The directory to write; never the model that the run started from, which its checkpoints belong to."""
    if base and out.resolve() == local_directory(base).resolve():
        raise FileExistsError(
            f"{out}: the run started from this model and needs it as it is, to be resumed and exported; give --out"
            " another directory"
        )
    return out


def num_bytes(size: str) -> int:
    """Reads a size like 5GB or 500MB, in powers of ten as transformers does.

    Raises:
        ValueError: it is no such size.
    """
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
    if not (match := re.fullmatch(r"(\d+)(KB|MB|GB)", size)):
        raise ValueError(f"max_shard_size={size!r}: expected a number of KB, MB or GB, such as 5GB")
    return int(match.group(1)) * units[match.group(2)]


def main() -> None:
    run = flags.DEFINE_string("run", None, "Workdir of the run.", required=True)
    out = flags.DEFINE_string("out", None, "Directory to write.", required=True)
    stage = flags.DEFINE_string("stage", "", "Whose newest checkpoint; the last stage's by default.")
    dtype = flags.DEFINE_enum("dtype", "bfloat16", DTYPES, "Of the weights.")
    max_shard_size = flags.DEFINE_string("max_shard_size", "5GB", "Of a weight file.")
    adapter = flags.DEFINE_bool("adapter", False, "Adapters alone, for PEFT.")

    def start(_: list[str]) -> None:
        if adapter.value:
            export_adapter(run.value, out.value, stage=stage.value)
        else:
            size = num_bytes(max_shard_size.value)
            export_run(run.value, out.value, stage=stage.value, dtype=dtype.value, max_shard_size=size)
        print(f"exported to {out.value}")

    app.run(start)


if __name__ == "__main__":
    main()
