"""What an update changes and what stays frozen: one table from settings to parameters.

Trained parameters are float32 and have gradients and optimizer state; frozen ones have neither and are kept in the
dtype of the computation. With an adapter (`model.lora_r` > 0) only the adapter is trained, outside the frozen parts.
"""

import re

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from r1vl_jax import config
from r1vl_jax.arrays import Params
from r1vl_jax.models.lora import LoRA, is_adapter, linear_maps, targeted
from r1vl_jax.models.qwen2_vl.model import Definition

# Setting of `config.Model` -> regular expression on the start of a dotted parameter path: what it freezes.
FROZEN_BY = {
    "freeze_vision_tower": r"visual\.(?!merger\.)",
    "freeze_merger": r"visual\.merger\.",
    "freeze_language_model": r"(text|lm_head)\.",
}


def partition(params: Params, model: config.Model) -> tuple[Params, Params]:
    """Splits parameters into trained and frozen ones; either may be empty. The opposite of `combine`."""
    flat = flatten_dict(params, sep=".")
    trained = {path: leaf for path, leaf in flat.items() if _is_trained(path, model)}
    frozen = {path: leaf for path, leaf in flat.items() if path not in trained}
    return unflatten_dict(trained, sep="."), unflatten_dict(frozen, sep=".")


def combine(trained: Params, frozen: Params) -> Params:
    """One tree with the parameters of both, which have no path in common. Nothing is copied."""
    return unflatten_dict(flatten_dict(trained) | flatten_dict(frozen))


def cast_frozen(params: Params, model: config.Model) -> Params:
    """Parameters in the dtypes they are kept in over a run: frozen ones in that of the computation."""
    trained, frozen = partition(params, model)
    dtype = jnp.dtype(model.dtype)
    return combine(trained, jax.tree.map(lambda leaf: leaf.astype(dtype, copy=False), frozen))


def make_lora(definition: Definition, model: config.Model) -> LoRA | None:
    """The adapter that the settings ask for, on each target that stands in no frozen part; None with `lora_r` = 0.

    Raises:
        ValueError: lists every target that the model does not have, or has in frozen parts only.
    """
    if model.lora_r == 0:
        return None
    paths = [path for path in linear_maps(definition.base.abstract_params()) if not _is_in_frozen_part(path, model)]
    return LoRA(model.lora_r, model.lora_alpha, tuple(targeted(paths, config.lora_targets(model))))


def _is_trained(path: str, model: config.Model) -> bool:
    return is_adapter(path) if model.lora_r else not _is_in_frozen_part(path, model)


def _is_in_frozen_part(path: str, model: config.Model) -> bool:
    return any(getattr(model, setting) and re.match(pattern, path) for setting, pattern in FROZEN_BY.items())
