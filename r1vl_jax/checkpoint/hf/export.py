"""Exports a run as a checkpoint directory that transformers opens, or its adapter for PEFT."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np
from etils import epath
from jaxtyping import Array
from ml_collections import ConfigDict

from r1vl_jax import config
from r1vl_jax.checkpoint.hf.atomic_directory import atomic_directory
from r1vl_jax.checkpoint.hf.chat_template import load_chat_tokenizer
from r1vl_jax.checkpoint.hf.directory import local_directory, weights_fingerprint
from r1vl_jax.checkpoint.hf.files import copy_files, write_files, write_instruction
from r1vl_jax.checkpoint.hf.names import Tensor, tensors_of
from r1vl_jax.checkpoint.hf.peft import save_adapter
from r1vl_jax.checkpoint.hf.shards import TensorSpec, write_shards
from r1vl_jax.checkpoint.manager import open_params, saved_steps
from r1vl_jax.checkpoint.merged_params import merged_params, trained_params
from r1vl_jax.checkpoint.model_config import model_config
from r1vl_jax.data.chat_format import eos_token_ids
from r1vl_jax.data.tokenizer import load_tokenizer
from r1vl_jax.models.qwen2_vl.config import Config
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.models.trainable import make_lora
from r1vl_jax.observe import check_fingerprint
from r1vl_jax.observe.files import read_json, write_json

MAX_SHARD_SIZE = 5 * 10**9  # bytes
_METADATA = "_CHECKPOINT_METADATA"  # orbax's, with its times


@dataclass(frozen=True)
class RunCheckpoint:
    """A saved step of a stage of a run."""

    run: epath.Path
    stage: str
    step: int

    @property
    def directory(self) -> epath.Path:
        """Holds the checkpoints of the stage."""
        return _checkpoints(self.run, self.stage)

    @property
    def fingerprint(self) -> str:
        """Digest of when it was saved, to the nanosecond, which a copy keeps."""
        return hashlib.sha256((self.directory / str(self.step) / _METADATA).read_bytes()).hexdigest()


def export_run(
    run: epath.PathLike,
    out: str | os.PathLike,
    *,
    stage: str = "",
    step: int = 0,
    dtype: str = "bfloat16",
    max_shard_size: int = MAX_SHARD_SIZE,
) -> RunCheckpoint:
    """Exports the whole model of a run's checkpoint; adapters are merged into the base weights.

    Args:
        run: the run's workdir.
        out: a directory, created if absent; an export in it is replaced when the new one is complete.
        stage: exports a checkpoint of this stage; "" is the last stage that has one.
        step: exports the checkpoint of this step; 0 is the latest.
        dtype: of the weights, one of `shards.DTYPES`.
        max_shard_size: bytes of tensors in a weight file.

    Returns:
        The exported checkpoint.

    Raises:
        FileNotFoundError: there is no run, or the stage has no checkpoint yet, or none of this step.
        ValueError: the weights that the run started from have changed, or another version wrote the run.
        FileExistsError: `out` is no export, holds files of the user's, or is the model that the run started from.
        OSError: the disk is full; the previous export is unchanged.
    """
    settings = load_settings(epath.Path(run))
    checkpoint = find_checkpoint(epath.Path(run), settings, stage, step)
    base = local_directory(settings.model.path) if settings.model.path else None
    tokenizer, _ = load_chat_tokenizer(base or Path(run) / "tokenizer")
    model = model_config(settings.model, tokenizer)
    definition = _definition(model, settings.model)
    _refuse_base_model(Path(out), settings.model.path)
    with (
        atomic_directory(Path(out)) as unfinished,
        open_params(checkpoint.directory, checkpoint.step) as saved,
    ):
        write = partial(copy_files, base) if base else partial(write_files, config=model, tokenizer=tokenizer)
        write(
            out=unfinished,
            eos_token_ids=eos_token_ids(tokenizer, base),
            min_pixels=settings.data.min_pixels,
            max_pixels=settings.data.max_pixels,
            dtype=dtype,
        )
        write_instruction(unfinished, settings.data.instruction)
        parameter = merged_params(settings, definition, saved)
        write_weights(unfinished, model, parameter, dtype=dtype, max_shard_size=max_shard_size)
    return checkpoint


def export_once(run: epath.PathLike, stage: str, step: int, out: Path, dtype: str) -> str:
    """Exports the checkpoint of a run into a directory in `out`, unless it was exported before; returns this.

    An export that has its name, and is of another run or dtype, is replaced.

    Args:
        stage, step, dtype: as in `export_run`.

    Raises:
        FileNotFoundError, ValueError: there is no run, or no such checkpoint.
    """
    checkpoint = find_checkpoint(epath.Path(run), load_settings(epath.Path(run)), stage, step)
    directory = out / f"model-{checkpoint.stage}-{checkpoint.step}"
    mark, made_of = epath.Path(f"{directory}.json"), {"checkpoint": checkpoint.fingerprint, "dtype": dtype}
    if not directory.exists() or read_json(mark) != made_of:
        mark.unlink(missing_ok=True)
        export_run(run, directory, stage=checkpoint.stage, step=checkpoint.step, dtype=dtype)
        write_json(mark, made_of)
    return str(directory)


def export_adapter(run: epath.PathLike, out: str | os.PathLike, *, stage: str = "", step: int = 0) -> RunCheckpoint:
    """Exports the adapter of a run's checkpoint, in PEFT's format.

    Args:
        run, out, stage, step: as in `export_run`.

    Returns:
        The exported checkpoint.

    Raises:
        ValueError: the run trains no adapter, or as in `export_run`.
        FileNotFoundError, FileExistsError, OSError: as in `export_run`.
    """
    settings = load_settings(epath.Path(run))
    checkpoint = find_checkpoint(epath.Path(run), settings, stage, step)
    tokenizer = load_tokenizer(settings.model.path or epath.Path(run) / "tokenizer")
    definition = _definition(model_config(settings.model, tokenizer), settings.model)
    _refuse_base_model(Path(out), settings.model.path)
    with open_params(checkpoint.directory, checkpoint.step) as saved:
        trained = trained_params(settings, definition, saved)
    with atomic_directory(Path(out)) as unfinished:
        save_adapter(unfinished, trained, definition, base_model=settings.model.path)
        write_instruction(unfinished, settings.data.instruction)
    return checkpoint


def write_weights(
    directory: Path, model: Config, parameter: Callable[[str], Array], *, dtype: str, max_shard_size: int
) -> None:
    """Writes the weight files only.

    Args:
        parameter: gives a parameter by its path, as `text.norm.scale`; is called for one after another.
        dtype: of the files, one of `shards.DTYPES`.
        max_shard_size: bytes of tensors in a file.
    """
    leaves = jax.tree_util.tree_leaves_with_path(Definition(model).abstract_params())
    shapes = {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape for path, leaf in leaves}
    tensors = {path: list(tensors_of(path, shape, model)) for path, shape in shapes.items()}
    specs = [TensorSpec(tensor.name, tensor.shape) for path in tensors for tensor in tensors[path]]
    arrays = (array for path in tensors for array in _arrays(parameter(path), tensors[path]))
    write_shards(directory, specs, arrays, dtype=dtype, max_shard_size=max_shard_size)


def _arrays(parameter: Array, tensors: list[Tensor]) -> Iterator[np.ndarray]:
    host = np.asarray(parameter)
    for tensor in tensors:
        yield tensor.from_parameter(host if tensor.layer is None else host[tensor.layer])


def _definition(model: Config, settings: config.Model) -> Definition:
    base = Definition(model, settings.dtype)
    return dataclasses.replace(base, lora=make_lora(base, settings))


def load_settings(run: epath.Path) -> config.Config:
    """The run's settings, from its manifest.

    Its checkpoints may hold only what was trained, so the weights that the run started from must be unchanged.
    """
    manifest = read_json(run / "manifest.json")
    if not manifest:
        raise FileNotFoundError(
            f"{run}: no run here (expected manifest.json); give --run the workdir of r1vl_jax.train"
        )
    try:
        settings = config.resolve(ConfigDict(manifest["configuration"]))
    except KeyError as error:
        missing = str(error.args[0]).splitlines()[0]
        raise ValueError(
            f"{run}: another version of r1vl_jax wrote the manifest, which has no setting {missing}; export the run"
            " with that version"
        ) from error
    check_fingerprint(run, "weights", weights_fingerprint(settings.model.path))
    return settings


def find_checkpoint(run: epath.Path, settings: config.Config, stage: str, step: int) -> RunCheckpoint:
    """The checkpoint of a step, or for 0 the latest, of a stage; for "" of the last stage that has saved it."""
    stages = (stage,) if stage else settings.train.stages
    steps = {name: saved_steps(_checkpoints(run, name)) for name in stages}
    for name in reversed(stages):
        if found := [each for each in steps[name] if step in (0, each)]:
            return RunCheckpoint(run, name, found[-1])
    if any(steps.values()):
        kept = "; ".join(f"{name} {', '.join(map(str, numbers))}" for name, numbers in steps.items() if numbers)
        raise FileNotFoundError(
            f"{run}: no checkpoint of step {step}, only: {kept} (train.save_total_limit says how many are kept)"
        )
    raise FileNotFoundError(
        f"{run}: no checkpoint of {' or '.join(stages)} yet (the run's stages: {', '.join(settings.train.stages)});"
        " train first"
    )


def _checkpoints(run: epath.Path, stage: str) -> epath.Path:
    return run / "checkpoints" / stage


def _refuse_base_model(out: Path, base: str) -> None:
    """The run's checkpoints depend on the model that it started from, which an export must not replace."""
    if base and out.resolve() == local_directory(base).resolve():
        raise FileExistsError(
            f"{out}: the run started from this model and needs it as it is, to be resumed and exported; give --out"
            " another directory"
        )
