"""Adapters in PEFT's format, out and in: `peft.PeftModel.from_pretrained(model, directory)` opens what is saved."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from r1vl_jax.arrays import Params
from r1vl_jax.checkpoint.hf.atomic_directory import PRODUCER
from r1vl_jax.checkpoint.hf.directory import read_json
from r1vl_jax.checkpoint.hf.names import Tensor, later_name, published_name, tensors_of
from r1vl_jax.models.lora import LoRA, linear_module_paths
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
    save_file(tensors, directory / _WEIGHTS, metadata={"format": "pt", **PRODUCER})
    (directory / _CONFIG).write_text(config + "\n", encoding="utf-8")


def load_adapter(directory: str | Path, definition: Definition) -> tuple[LoRA, Params]:
    """Reads an adapter that this project or PEFT wrote, in safetensors.

    Args:
        definition: of the base model.

    Returns:
        The adapter for `Definition.lora`, and its parameters as float32 NumPy arrays; layers without one get zeros.

    Raises:
        FileNotFoundError: there is no adapter in the directory.
        ValueError: it is no plain LoRA, or has tensors that are missing, misshapen or of modules that the model does
            not have; lists all of them.
    """
    directory = Path(directory)
    settings = read_json(directory, _CONFIG)
    faults = [
        f"{name}: expected {want!r}, got {settings[name]!r}"
        for name, want in _PLAIN.items()
        if _differs(settings, name)
    ]
    if faults or not isinstance(rank := settings.get("r"), int) or rank < 1:
        listing = "\n  ".join(faults or [f"r: expected an integer of at least 1, got {settings.get('r')!r}"])
        raise ValueError(f"{directory / _CONFIG}: only plain LoRA is supported:\n  {listing}")
    if not (directory / _WEIGHTS).is_file():
        raise FileNotFoundError(f"{directory}: expected {_WEIGHTS}, which `save_pretrained` of PEFT writes")
    try:
        found = load_file(directory / _WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{directory / _WEIGHTS}: truncated or damaged ({error}); copy it again") from error
    flat, faults = _fill(found, definition, rank)
    if faults or not flat:
        listing = "\n  ".join(faults or ["it has no tensors"])
        raise ValueError(f"{directory}: the adapter is not one of this model:\n  {listing}")
    targets = tuple(sorted({path.removesuffix(".lora_a").removesuffix(".lora_b") for path in flat}))
    # Rank-stabilised LoRA scales by alpha / sqrt(r).
    alpha = float(settings.get("lora_alpha", rank)) * (rank**0.5 if settings.get("use_rslora") else 1.0)
    return LoRA(rank, alpha, targets), unflatten_dict(flat, sep=".")


_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
# Settings of PEFT with which an adapter computes something else than LoRA.
_PLAIN = {
    "peft_type": "LORA",
    "bias": "none",
    "use_dora": False,
    "fan_in_fan_out": False,
    "lora_bias": False,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
}


def _differs(settings: dict[str, Any], name: str) -> bool:
    """Whether a setting is there and not the plain one; empty and absent are the same."""
    return name in settings and settings[name] != _PLAIN[name] and bool(settings[name] or _PLAIN[name])


def _fill(found: dict[str, np.ndarray], definition: Definition, rank: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """The adapter's parameters by path, and a line for every tensor that does not fit."""
    leaves: dict[Any, Any] = flatten_dict(definition.base.abstract_params(), sep=".")
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    modules: dict[str, tuple[str, Tensor]] = {}
    for path in linear_module_paths(definition.base.abstract_params()):
        for tensor in tensors_of(f"{path}.kernel", shapes[f"{path}.kernel"], definition.config):
            modules[tensor.name] = (path, tensor)
    flat, faults, halves = {}, [], set()
    for name, value in sorted(found.items()):
        match = re.fullmatch(rf"{re.escape(_PREFIX)}(.+)\.lora_([AB])(?:\.default)?\.weight", name)
        module = modules.get(published_name(f"{match[1]}.weight")) if match else None
        if match is None or module is None:
            faults.append(f"extra: {name}")
            continue
        path, tensor = module
        *num_layers, dim_in, dim_out = shapes[f"{path}.kernel"]
        shape = (rank, dim_in) if match[2] == "A" else (dim_out, rank)
        if value.shape != shape:
            faults.append(f"misshapen: {name}: expected {list(shape)}, got {list(value.shape)}")
            continue
        halves.add((match[1], match[2]))
        parameter = flat.setdefault(
            f"{path}.lora_{match[2].lower()}", np.zeros((*num_layers, *shape[::-1]), np.float32)
        )
        parameter[... if tensor.layer is None else tensor.layer] = value.astype(np.float32).T
    missing = {(name, "AB".replace(half, "")) for name, half in halves} - halves
    faults += [f"missing: {_PREFIX}{name}.lora_{half}.weight" for name, half in sorted(missing)]
    return flat, faults


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
