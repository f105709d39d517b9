"""The files beside the weights of an export: configuration, tokenizer, image processor, instruction."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from r1vl_jax.checkpoint.hf.atomic_directory import INSTRUCTION
from r1vl_jax.checkpoint.hf.chat_template import ADDITIONAL
from r1vl_jax.checkpoint.hf.config import to_hf
from r1vl_jax.checkpoint.hf.directory import read_json
from r1vl_jax.checkpoint.hf.processor import write_pixel_limits
from r1vl_jax.data.images import load_image_processor
from r1vl_jax.models.qwen2_vl.config import Config

_GENERATION_CONFIG = "generation_config.json"
# Weights, in any format; every other file of a checkpoint is copied.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx", ".index.json")


def copy_files(
    source: Path, out: Path, *, eos_token_ids: Sequence[int], min_pixels: int, max_pixels: int, dtype: str
) -> None:
    """Copies all files but weights, byte for byte, except for what the run did otherwise.

    These entries are changed where they differ: the dtype in config.json, the limits of the image processor, and the
    end tokens in generation_config.json, where the run's are added.

    Args:
        eos_token_ids: those that ended a completion.
        min_pixels, max_pixels: limits of the run's images.
        dtype: of the exported weights.
    """
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.startswith(".") and not path.name.endswith(_WEIGHTS):
            shutil.copyfile(path, out / path.name)
    if (source / ADDITIONAL).is_dir():
        shutil.copytree(source / ADDITIONAL, out / ADDITIONAL)
    write_pixel_limits(out, min_pixels=min_pixels, max_pixels=max_pixels)
    _add_eos_token_ids(out, eos_token_ids)
    config = read_json(source, "config.json")
    stated = {name: dtype for name in ("dtype", "torch_dtype") if name in config} or {"dtype": dtype}
    if not stated.items() <= config.items():
        _write_json(out / "config.json", config | stated)


def _add_eos_token_ids(out: Path, eos_token_ids: Sequence[int]) -> None:
    """Adds the run's end tokens, one of which the warm-up has taught, to generation_config.json if there is one."""
    if not (out / _GENERATION_CONFIG).is_file():
        return
    generation = read_json(out, _GENERATION_CONFIG)
    stated = generation.get("eos_token_id")
    if not {*eos_token_ids} <= {*([stated] if isinstance(stated, int) else stated or [])}:
        _write_json(out / _GENERATION_CONFIG, generation | {"eos_token_id": list(eos_token_ids)})


def write_files(
    out: Path,
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    *,
    eos_token_ids: Sequence[int],
    min_pixels: int,
    max_pixels: int,
    dtype: str,
) -> None:
    """Writes the files for a model that was trained from random weights."""
    _write_json(out / "config.json", to_hf(config) | {"torch_dtype": dtype})
    generation = {"eos_token_id": list(eos_token_ids), "pad_token_id": tokenizer.pad_token_id, "do_sample": False}
    _write_json(out / _GENERATION_CONFIG, generation)
    tokenizer.save_pretrained(out)
    load_image_processor(min_pixels=min_pixels, max_pixels=max_pixels).save_pretrained(out)
    write_pixel_limits(out, min_pixels=min_pixels, max_pixels=max_pixels)


def write_instruction(out: Path, instruction: str) -> None:
    """Writes the instruction that the model was trained with, or removes that of the model it started from."""
    (out / INSTRUCTION).unlink(missing_ok=True)
    if instruction.strip():
        (out / INSTRUCTION).write_text(instruction.strip() + "\n", "utf-8")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
