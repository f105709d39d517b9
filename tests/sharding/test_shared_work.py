"""No two devices do the same work: FLOPs of the compiled programs, by the compiler's cost analysis."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from r1vl_jax.arrays import PackedVision
from r1vl_jax.config import Mesh
from r1vl_jax.models.presets import preset
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.sharding import rules
from r1vl_jax.sharding.mesh import make_mesh

TINY = preset("tiny")
# Wide enough that matmuls, not norms, dominate.
DEFINITION = Definition(dataclasses.replace(TINY, vision=dataclasses.replace(TINY.vision, depth=2, embed_dim=256)))
NUM_ROWS, NUM_PATCHES = 8, 64


def device_flops(*sizes: int) -> float:
    """FLOPs of one device for the features of eight rows of image patches, and their gradients."""
    mesh = make_mesh(Mesh(*sizes), jax.devices()[: sizes[0] * sizes[1] * sizes[2]])
    definition = dataclasses.replace(DEFINITION, mesh=mesh)
    params = definition.abstract_params()
    shardings = rules.shardings(params, mesh)
    params = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), params, shardings
    )
    rows = jax.NamedSharding(mesh, jax.P(("data", "fsdp")))
    patch = jax.ShapeDtypeStruct((NUM_ROWS, NUM_PATCHES, TINY.vision.patch_dim), jnp.float32, sharding=rows)
    segment = jax.ShapeDtypeStruct((NUM_ROWS, NUM_PATCHES), jnp.int32, sharding=rows)
    position = jax.ShapeDtypeStruct((NUM_ROWS, NUM_PATCHES, 2), jnp.int32, sharding=rows)

    def gradient(params, vision: PackedVision):
        features, backward = jax.vjp(lambda params: definition.bind(params).image_features(vision), params)
        return backward(features)[0]

    lowered = jax.jit(gradient, out_shardings=shardings).lower(params, PackedVision(patch, segment, position))
    return lowered.compile().cost_analysis()["flops"]


@pytest.fixture(scope="module")
def single_device_flops() -> float:
    return device_flops(1, 1, 1)


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 4, 2)])
def test_no_image_is_encoded_twice(sizes, single_device_flops):
    """Rows of patches are sharded over data and fsdp; within a tensor group, heads and MLP columns."""
    assert 8 * device_flops(*sizes) < 1.05 * single_device_flops
