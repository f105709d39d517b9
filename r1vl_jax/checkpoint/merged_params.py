"""The parameters of the whole model of a run whose checkpoints hold only the trained ones."""

from collections.abc import Callable

import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array

from r1vl_jax import config
from r1vl_jax.arrays import Params
from r1vl_jax.checkpoint.hf.load import ParameterReader
from r1vl_jax.models.lora import merge_adapter
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.models.trainable import cast_frozen, partition
from r1vl_jax.sharding.batch import replicated
from r1vl_jax.sharding.mesh import make_mesh

ReadParameter = Callable[[str], Array]  # a parameter by its path, as `text.norm.scale`


def trained_params(settings: config.Config, definition: Definition, saved: ReadParameter) -> Params:
    """The trained parameters, as a tree.

    Args:
        saved: reads a parameter from the checkpoint.
    """
    abstract, _ = partition(definition.abstract_params(), settings.model)
    return unflatten_dict({path: saved(path) for path in flatten_dict(abstract, sep=".")}, sep=".")


def merged_params(settings: config.Config, definition: Definition, saved: ReadParameter) -> ReadParameter:
    """Reads any parameter of the model, with adapters merged into the base weights, one at a time.

    Frozen parameters come from the weights that the run started from. Merged matrices are float32, so that an export
    rounds them only once.

    Args:
        saved: reads a parameter from the checkpoint.

    Raises:
        FileNotFoundError, ValueError: the weights that the run started from are gone, or have other shapes.
    """
    trained, frozen = partition(definition.abstract_params(), settings.model)
    if not frozen:
        return saved
    paths, initial = flatten_dict(trained, sep="."), _initial_params(settings, definition)

    def parameter(path: str) -> Array:
        if path in paths:
            return saved(path)
        base, module = initial(path), path.removesuffix(".kernel")
        if definition.lora is None or f"{module}.lora_a" not in paths:
            return base
        return merge_adapter(base, saved(f"{module}.lora_a"), saved(f"{module}.lora_b"), definition.lora.scale)

    return parameter


def _initial_params(settings: config.Config, definition: Definition) -> ReadParameter:
    """Reads the parameters that the run started from, in the dtype of frozen parameters."""
    model = settings.model
    if not model.path:
        flat: dict = dict(flatten_dict(cast_frozen(definition.init(jax.random.key(settings.seed)), model), sep="."))
        return flat.__getitem__
    reader = ParameterReader(model.path, definition.base)
    host = replicated(make_mesh(config.Mesh(), jax.devices("cpu")[:1]))
    return lambda path: reader.read(path, model.dtype, host)
