"""The whole model of a run whose checkpoints hold the trained parameters alone: the rest is as the run began."""

from collections.abc import Callable

import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array

from r1vl_jax import config
from r1vl_jax.arrays import Params
from r1vl_jax.checkpoint.hf.load import ParameterReader
from r1vl_jax.models.lora import fold
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.models.trainable import cast_frozen, partition
from r1vl_jax.sharding.batch import replicated
from r1vl_jax.sharding.mesh import make_mesh

Parameter = Callable[[str], Array]  # a parameter by its path, as `text.norm.scale`


def trained_params(settings: config.Config, definition: Definition, saved: Parameter) -> Params:
    """What the run trains, as a tree; `saved` reads it from a checkpoint."""
    abstract, _ = partition(definition.abstract_params(), settings.model)
    return unflatten_dict({path: saved(path) for path in flatten_dict(abstract, sep=".")}, sep=".")


def whole_model(settings: config.Config, definition: Definition, saved: Parameter) -> Parameter:
    """Every parameter of the model without adapters, one when it is asked for.

    Matrices that adapters are folded into are float32, so that what is written is rounded once.

    Raises:
        FileNotFoundError, ValueError: the run began from weights that are not there any more, or of other shapes.
    """
    trained, frozen = partition(definition.abstract_params(), settings.model)
    if not frozen:
        return saved
    paths, initial = flatten_dict(trained, sep="."), _initial(settings, definition)

    def parameter(path: str) -> Array:
        if path in paths:
            return saved(path)
        base, module = initial(path), path.removesuffix(".kernel")
        if definition.lora is None or f"{module}.lora_a" not in paths:
            return base
        return fold(base, saved(f"{module}.lora_a"), saved(f"{module}.lora_b"), definition.lora.scale)

    return parameter


def _initial(settings: config.Config, definition: Definition) -> Parameter:
    """The parameters that the run began with, in the dtype that it keeps frozen ones in."""
    model = settings.model
    if not model.path:
        flat: dict = dict(flatten_dict(cast_frozen(definition.init(jax.random.key(settings.seed)), model), sep="."))
        return flat.__getitem__
    reader = ParameterReader(model.path, definition.base)
    host = replicated(make_mesh(config.Mesh(), jax.devices("cpu")[:1]))
    return lambda path: reader.read(path, model.dtype, host)
