"""Which parameters are trained and which are frozen: one table from settings to parameter paths.

Trained parameters are float32 and have gradients and optimizer state; frozen ones have neither and are kept in the
dtype of the computation. With LoRA (`model.lora_r` > 0) only the adapter is trained; frozen parts get none.
"""

import re

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from r1vl_jax import config
from r1vl_jax.arrays import Params
from r1vl_jax.models.lora import LoRA, is_adapter, linear_module_paths, match_target_modules
from r1vl_jax.models.qwen2_vl.model import Definition

# The merger is part of `visual` in the parameters, as in checkpoints, but is frozen by a setting of its own.
# Setting of `config.Model` -> regular expression, matched at the start of dotted parameter paths, of what it freezes.
FROZEN_BY = {
    "freeze_vision_tower": r"visual\.(?!merger\.)",
    "freeze_merger": r"visual\.merger\.",
    "freeze_language_model": r"(text|lm_head)\.",
}


def partition(params: Params, model: config.Model) -> tuple[Params, Params]:
    """Splits parameters into (trained, frozen); either may be empty. The inverse of `combine`."""
    flat = flatten_dict(params, sep=".")
    trained = {path: leaf for path, leaf in flat.items() if _is_trained(path, model)}
    frozen = {path: leaf for path, leaf in flat.items() if path not in trained}
    return unflatten_dict(trained, sep="."), unflatten_dict(frozen, sep=".")


def combine(trained: Params, frozen: Params) -> Params:
    """Merges trained and frozen parameters, which have no path in common, into one tree. No array is copied."""
    return unflatten_dict(flatten_dict(trained) | flatten_dict(frozen))


def cast_frozen(params: Params, model: config.Model) -> Params:
    """Casts frozen parameters to the dtype of the computation; trained ones stay float32."""
    # Half the memory for what needs neither gradients nor an optimizer's precision.
    trained, frozen = partition(params, model)
    dtype = jnp.dtype(model.dtype)
    return combine(trained, jax.tree.map(lambda leaf: leaf.astype(dtype, copy=False), frozen))


def make_lora(definition: Definition, model: config.Model) -> LoRA | None:
    """The LoRA adapter of the settings, on all target modules outside frozen parts; None with `lora_r` = 0.

    Raises:
        ValueError: lists every target module that the model does not have, or only in frozen parts.
    """
    if model.lora_r == 0:
        return None
    paths = [
        path
        for path in linear_module_paths(definition.base.abstract_params())
        if not _is_frozen_by_setting(path, model)
    ]
    return LoRA(model.lora_r, model.lora_alpha, tuple(match_target_modules(paths, config.lora_targets(model))))


def _is_trained(path: str, model: config.Model) -> bool:
    return is_adapter(path) if model.lora_r else not _is_frozen_by_setting(path, model)


def _is_frozen_by_setting(path: str, model: config.Model) -> bool:
    return any(getattr(model, setting) and re.match(pattern, path) for setting, pattern in FROZEN_BY.items())
