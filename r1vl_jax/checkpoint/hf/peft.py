"""Exports a LoRA adapter in PEFT's format: `peft.PeftModel.from_pretrained(model, directory)` loads it."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from r1vl_jax.arrays import Params
from r1vl_jax.checkpoint.hf.atomic_directory import PRODUCER
from r1vl_jax.checkpoint.hf.names import later_name, tensors_of
from r1vl_jax.models.lora import LoRA
from r1vl_jax.models.qwen2_vl.model import Definition


def save_adapter(directory: str | Path, params: Params, definition: Definition, *, base_model: str) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors` into a directory, made if absent.

    Args:
        params: the adapter's parameters, with or without those of the base model.
        base_model: directory or hub name of the base model, which `adapter_config.json` names.

    Raises:
        ValueError: the definition has no adapter.
    """
    if definition.lora is None:
        raise ValueError("there is no adapter to save: model.lora_r is 0; export the whole model instead")
    tensors = dict(_tensors(params, definition))
    targets = sorted({name.removeprefix(_PREFIX).rsplit(".", 2)[0] for name in tensors})
    config = json.dumps(_config(definition.lora, targets, base_model), indent=2)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt", **PRODUCER})
    (directory / "adapter_config.json").write_text(config + "\n", encoding="utf-8")


_PREFIX = "base_model.model."


def _config(lora: LoRA, targets: list[str], base_model: str) -> dict:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": lora.r,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": targets,
        "inference_mode": True,
    }


def _tensors(params: Params, definition: Definition) -> Iterator[tuple[str, np.ndarray]]:
    """Matrices A and B of every adapted linear map, layer by layer, with PEFT's names and layout [out, in]."""
    flat = flatten_dict(params, sep=".")
    for path in (path for path in flat if path.endswith(".lora_a")):
        module = path.removesuffix(".lora_a")
        a, b = (np.asarray(flat[f"{module}.{name}"], np.float32) for name in ("lora_a", "lora_b"))
        for tensor in tensors_of(f"{module}.kernel", (*a.shape[:-1], b.shape[-1]), definition.config):
            name = _PREFIX + later_name(tensor.name).removesuffix(".weight")
            layer = ... if tensor.layer is None else tensor.layer
            yield f"{name}.lora_A.weight", np.ascontiguousarray(a[layer].T)
            yield f"{name}.lora_B.weight", np.ascontiguousarray(b[layer].T)
