"""The tensor-parallel size of sampling: which sizes are valid, which one fits, and errors."""

import dataclasses

import pytest
from helpers.small import DEFINITION

from r1vl_jax.config import Config, Eval, Mesh, Model, SamplingMesh, Train
from r1vl_jax.models.presets import PRESETS
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.sampling.tensor_parallel import (
    choose_tensor_parallel_size,
    device_memory_limit,
    smallest_that_fits,
    valid_tensor_parallel_sizes,
)
from r1vl_jax.sharding.mesh import make_mesh

GIB = 2**30


@pytest.mark.parametrize(
    ("num_devices", "num_heads", "batch_sizes", "sizes"),
    [
        (16, 4, [16, 128], [1, 2, 4]),
        (64, 4, [16, 128], [4]),  # 16 shards with a prompt each
        (8, 2, [12], [2]),
        (8, 8, [8], [1, 2, 4, 8]),
        (6, 4, [6], [1, 2]),
        (8, 2, [2], []),
        (1, 4, [5], [1]),
    ],
)
def test_valid_sizes(num_devices, num_heads, batch_sizes, sizes):
    assert valid_tensor_parallel_sizes(num_devices, num_heads=num_heads, batch_sizes=batch_sizes) == sizes


@pytest.mark.parametrize(
    ("memory", "size"), [(None, 1), (200 * GIB, 1), (112 * GIB, 1), (110 * GIB, 2), (60 * GIB, 4), (10 * GIB, 4)]
)
def test_smallest_that_fits(memory, size):
    assert smallest_that_fits({1: 100 * GIB, 2: 60 * GIB, 4: 40 * GIB}, memory) == size


def make_config(tensor: int = -1, prompts: int = 8, batch_size: int = 64) -> Config:
    config = Config(eval=Eval(batch_size=batch_size), train=Train(prompts_per_update=prompts))
    return dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, mesh=SamplingMesh(tensor)))


ON_EIGHT = dataclasses.replace(DEFINITION, mesh=make_mesh(Mesh(1, 8, 1)))


@pytest.mark.parametrize(("memory_gib", "size"), [(None, 1), (95, 1), (31.25, 2), (22, 4), (15.75, 4)])
def test_7b_on_eight_devices(memory_gib, size):
    """Weights, moments and reference take 13.5 GiB of a device; the sampler's weights 14.2 GiB, caches less than 2."""
    definition = Definition(PRESETS["7b"], dtype="bfloat16", mesh=ON_EIGHT.mesh)
    config = dataclasses.replace(make_config(), model=Model(preset="7b", dtype="bfloat16"))
    memory = None if memory_gib is None else int(memory_gib * GIB)
    assert choose_tensor_parallel_size(config, definition, memory_bytes=memory) == size


def test_an_explicit_size_is_kept():
    assert choose_tensor_parallel_size(make_config(tensor=2), ON_EIGHT, memory_bytes=None) == 2


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            make_config(tensor=4),
            r"sampling.mesh.tensor=4: .* the 2 key/value heads and of the 8 .*; set one of \[1, 2\]",
        ),
        (
            make_config(tensor=1, prompts=4),
            r"eval.batch_size=64 and train.prompts_per_update=4; set one of \[2\], or -1",
        ),
        (make_config(prompts=3), r"train.prompts_per_update=3; no size does: set multiples of 8"),
    ],
)
def test_an_invalid_size_is_an_error(config, expected):
    with pytest.raises(ValueError, match=expected):
        choose_tensor_parallel_size(config, ON_EIGHT, memory_bytes=None)


def test_a_cpu_reports_no_memory_limit():
    assert device_memory_limit(ON_EIGHT.mesh) is None
