"""Writes a run's model as a directory that transformers opens as it is."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from etils import epath
from jaxtyping import Array
from ml_collections import ConfigDict

from r1vl_jax import config
from r1vl_jax.checkpoint.hf.atomic_directory import atomic_directory
from r1vl_jax.checkpoint.hf.directory import local_directory, weights_fingerprint
from r1vl_jax.checkpoint.hf.files import copy_files, write_files
from r1vl_jax.checkpoint.hf.names import Tensor, tensors_of
from r1vl_jax.checkpoint.hf.peft import save_adapter
from r1vl_jax.checkpoint.hf.shards import Entry, write_shards
from r1vl_jax.checkpoint.manager import newest_params
from r1vl_jax.checkpoint.merged_params import trained_params, whole_model
from r1vl_jax.checkpoint.model_config import model_config
from r1vl_jax.data.tokenizer import eos_token_ids, load_tokenizer
from r1vl_jax.models.qwen2_vl.config import Config
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.models.trainable import make_lora
from r1vl_jax.observe import check_fingerprint
from r1vl_jax.observe.files import read_json

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
    tokenizer = load_tokenizer(settings.model.path or epath.Path(run) / "tokenizer")
    sizes = model_config(settings.model, tokenizer)
    definition = _definition(sizes, settings.model)
    with (
        atomic_directory(_checked(Path(out), settings.model.path)) as unfinished,
        newest_params(_checkpoints(epath.Path(run), settings, stage)) as saved,
    ):
        if settings.model.path:
            copy_files(local_directory(settings.model.path), unfinished, dtype=dtype)
        else:
            write_files(
                unfinished,
                sizes,
                tokenizer,
                eos_token_ids=eos_token_ids(tokenizer),
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
    tokenizer = load_tokenizer(settings.model.path or epath.Path(run) / "tokenizer")
    definition = _definition(model_config(settings.model, tokenizer), settings.model)
    with newest_params(_checkpoints(epath.Path(run), settings, stage)) as saved:
        trained = trained_params(settings, definition, saved)
    with atomic_directory(_checked(Path(out), settings.model.path)) as unfinished:
        save_adapter(unfinished, trained, definition, base_model=settings.model.path)


def _definition(sizes: Config, model: config.Model) -> Definition:
    base = Definition(sizes, model.dtype)
    return dataclasses.replace(base, lora=make_lora(base, model))


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
