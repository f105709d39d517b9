"""Where the parameters, gradients and moments of the published sizes lie on pods, by shapes alone."""

import functools
import math

import jax
import optax
import pytest
from jax.sharding import AbstractMesh

from r1vl_jax.config import MeshLimits, Mesh, Optim, mesh_shape
from r1vl_jax.learner.learner import Learner
from r1vl_jax.learner.optimizer import optimizer
from r1vl_jax.models.presets import preset
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.sharding import rules
from r1vl_jax.sharding.mesh import AXES

# Published numbers of parameters, vision tower included.
NUM_PARAMS = {"2b": 2_208_985_600, "7b": 8_291_375_616, "72b": 73_405_560_320}


@functools.cache
def abstract_state(name: str):
    """Float32 parameters and the optimizer's state, as an update takes and gives them."""
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
def test_nothing_that_the_table_divides_is_whole(name, chips, num_slices, prompts, shape):
    sizes = preset(name)
    heads = {"text": sizes.num_key_value_heads, "vision": sizes.vision.num_heads}
    limits = MeshLimits({"prompts": prompts}, heads)
    assert mesh_shape(Mesh(), math.prod(shape), num_slices, limits) == shape

    mesh = AbstractMesh(shape, AXES)
    state = abstract_state(name)
    assert rules.sharding_fallbacks(state, mesh) == []
    num_parts = mesh.shape["fsdp"] * mesh.shape["tensor"]
    placed = jax.tree.leaves(rules.shardings(state, mesh))
    bytes_whole = bytes_here = 0
    for leaf, placement in zip(jax.tree.leaves(state), placed, strict=True):
        here = math.prod(placement.shard_shape(leaf.shape))
        bytes_whole += leaf.size * leaf.dtype.itemsize
        bytes_here += here * leaf.dtype.itemsize
        if leaf.size > 2**20:  # matrices; vectors are for all, or for those of their columns
            assert here * num_parts == leaf.size
    assert bytes_whole == pytest.approx(3 * 4 * NUM_PARAMS[name], abs=100)  # the numbers, and two moments of each
    assert bytes_whole / num_parts <= bytes_here < 1.01 * bytes_whole / num_parts


def test_gradients_lie_as_parameters():
    """The table sees the end of a path, so a gradient lies where its parameter and its moments lie."""
    mesh = AbstractMesh((1, 16, 4), AXES)
    state = abstract_state("7b")
    of_params = rules.shardings(state.params, mesh)
    placed = rules.shardings(state, mesh)
    assert placed.params == of_params
    moments = [part for part in jax.tree.leaves(placed.opt_state, is_leaf=_is_adam) if _is_adam(part)]
    assert [(part.mu, part.nu) for part in moments] == [(of_params, of_params)]


def _is_adam(part) -> bool:
    return isinstance(part, optax.ScaleByAdamState)
