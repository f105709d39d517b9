"""How parameters, gradients and Adam moments of the published sizes are sharded on pods, by shapes alone."""

import functools
import math

import jax
import optax
import pytest
from jax.sharding import AbstractMesh

from r1vl_jax.config import Mesh, MeshLimits, Optim, mesh_shape
from r1vl_jax.learner.learner import Learner
from r1vl_jax.learner.optimizer import optimizer
from r1vl_jax.models.presets import preset
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.sharding import rules
from r1vl_jax.sharding.mesh import AXES

# Published parameter counts, vision tower included.
NUM_PARAMS = {"2b": 2_208_985_600, "7b": 8_291_375_616, "72b": 73_405_560_320}


@functools.cache
def abstract_state(name: str):
    """The training state: float32 parameters and the optimizer's state."""
    definition = Definition(preset(name))
    params = definition.abstract_params()
    return jax.eval_shape(Learner(definition, optimizer(Optim(), 10, params), chunk_size=1).init, params)


@pytest.mark.parametrize(
    ("name", "chips", "num_slices", "prompts", "shape"),
    [
        ("2b", "v6e-8", 1, 16, (1, 8, 1)),
        ("2b", "v5e-16", 1, 8, (1, 8, 2)),
        ("7b", "v5p-8", 1, 16, (1, 4, 1)),
        ("7b", "v6e-8", 1, 16, (1, 8, 1)),
        ("7b", "v5e-16", 1, 16, (1, 16, 1)),
        ("7b", "v5e-64, v6e-64, v5p-128", 1, 16, (1, 16, 4)),
        ("7b", "v6e-64 twice", 2, 32, (2, 16, 4)),
        ("72b", "v5p-256", 1, 16, (1, 16, 8)),
    ],
)
def test_every_matrix_is_fully_sharded(name, chips, num_slices, prompts, shape):
    sizes = preset(name)
    heads = {"text": sizes.num_key_value_heads, "vision": sizes.vision.num_heads}
    limits = MeshLimits({"prompts": prompts}, heads)
    assert mesh_shape(Mesh(), math.prod(shape), num_slices, limits) == shape

    mesh = AbstractMesh(shape, AXES)
    state = abstract_state(name)
    assert rules.sharding_fallbacks(state, mesh) == []
    num_shards = mesh.shape["fsdp"] * mesh.shape["tensor"]
    shardings = jax.tree.leaves(rules.shardings(state, mesh))
    total_bytes = device_bytes = 0
    for leaf, sharding in zip(jax.tree.leaves(state), shardings, strict=True):
        size = math.prod(sharding.shard_shape(leaf.shape))
        total_bytes += leaf.size * leaf.dtype.itemsize
        device_bytes += size * leaf.dtype.itemsize
        if leaf.size > 2**20:  # a matrix; vectors may be replicated
            assert size * num_shards == leaf.size
    assert total_bytes == pytest.approx(3 * 4 * NUM_PARAMS[name], abs=100)  # parameters and two moments
    assert total_bytes / num_shards <= device_bytes < 1.01 * total_bytes / num_shards


def test_moments_are_sharded_as_parameters():
    """Rules match the end of a path, and so apply to gradients and moments too."""
    mesh = AbstractMesh((1, 16, 4), AXES)
    state = abstract_state("7b")
    of_params = rules.shardings(state.params, mesh)
    of_state = rules.shardings(state, mesh)
    assert of_state.params == of_params
    moments = [node for node in jax.tree.leaves(of_state.opt_state, is_leaf=_is_adam) if _is_adam(node)]
    assert [(node.mu, node.nu) for node in moments] == [(of_params, of_params)]


def _is_adam(node) -> bool:
    return isinstance(node, optax.ScaleByAdamState)
