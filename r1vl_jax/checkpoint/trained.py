"""The whole model of a run whose checkpoints hold the trained parameters alone: the rest is as the run began."""

from collections.abc import Callable
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array

from r1vl_jax import config
from r1vl_jax.arrays import Params
from r1vl_jax.checkpoint.hf_import import load_params
from r1vl_jax.models.lora import merged_params
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.sharding import make_mesh, shardings
from r1vl_jax.trainable import combine, partition, stored

Parameter = Callable[[str], Array]  # a parameter by its path, as `text.norm.scale`


def trained_params(settings: config.Config, definition: Definition, saved: Parameter) -> Params:
    """What the run trains, as a tree; `saved` reads it from a checkpoint."""
    abstract, _ = partition(definition.abstract_params(), settings.model)
    return unflatten_dict({path: saved(path) for path in flatten_dict(abstract, sep=".")}, sep=".")


def whole_model(settings: config.Config, definition: Definition, saved: Parameter) -> Parameter:
    """Every parameter of the model without adapters, which are folded in.

    Raises:
        FileNotFoundError, ValueError: the run began from weights that are not there any more, or are others.
    """
    _, frozen = partition(definition.abstract_params(), settings.model)
    if not frozen:
        return saved
    _, frozen = partition(_initial(settings, definition), settings.model)
    params = combine(trained_params(settings, definition, saved), frozen)
    if definition.lora is not None:
        params = merged_params(params, definition.lora)
    flat: dict[str, Any] = dict(flatten_dict(params, sep="."))
    return flat.__getitem__


def _initial(settings: config.Config, definition: Definition) -> Params:
    """The parameters that the run began with; frozen ones in the dtype that the run keeps them in."""
    model = settings.model
    if not model.path:
        return stored(definition.init(jax.random.key(settings.seed)), model)
    placement = shardings(definition.base.abstract_params(), make_mesh(config.Mesh(), jax.devices()[:1]))
    return load_params(model.path, definition.base, placement=placement, dtype=model.dtype)
