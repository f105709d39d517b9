"""Activation checkpointing (`remat`) changes the memory of the backward pass, not its result."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small import CONFIG, DEFINITION, make_prompts

from r1vl_jax.models.qwen2_vl import layers
from r1vl_jax.models.qwen2_vl.config import VisionConfig

REMATS = ("none", "dots", "block", "offload")
# Deep and narrow: the memory of saved activations outweighs everything else.
DEEP = dataclasses.replace(CONFIG, num_hidden_layers=8, vision=VisionConfig(depth=8, embed_dim=16, num_heads=2))


@pytest.fixture(scope="module")
def inputs():
    params = jax.jit(dataclasses.replace(DEFINITION, config=DEEP).init)(jax.random.key(0))
    return params, make_prompts(num_prompts=16, length=32)


@pytest.fixture(scope="module")
def traces(inputs):
    """The gradient of a loss through text and vision for each setting, traced."""

    def traced(remat: str):
        definition = dataclasses.replace(DEFINITION, config=DEEP, remat=remat)

        def loss(params, prompts):
            model = definition.bind(params)
            return jnp.mean(model.prefill(prompts, model.image_features(prompts.vision))[0] ** 3)

        return jax.jit(jax.grad(loss)).trace(*inputs)

    return {remat: traced(remat) for remat in REMATS}


@pytest.fixture(scope="module")
def programs(traces):
    return {remat: trace.lower().compile() for remat, trace in traces.items()}


def test_gradients_are_equal(programs, inputs):
    expected = programs["none"](*inputs)
    assert np.abs(expected["visual"]["blocks"]["mlp"]["fc1"]["kernel"]).max() > 0

    def compare(actual, expected):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())

    for remat in REMATS[1:]:
        jax.tree.map(compare, programs[remat](*inputs), expected)


def test_unrolled_layers_give_the_same(programs, inputs):
    definition = dataclasses.replace(DEFINITION, config=DEEP, remat="dots", scan_layers=False)

    def loss(params, prompts):
        model = definition.bind(params)
        return jnp.mean(model.prefill(prompts, model.image_features(prompts.vision))[0] ** 3)

    unrolled = jax.jit(jax.grad(loss)).lower(*inputs).compile()
    assert " while(" in programs["dots"].as_text()
    assert " while(" not in unrolled.as_text()
    jax.tree.map(
        lambda actual, expected: np.testing.assert_allclose(
            actual, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()
        ),
        unrolled(*inputs),
        programs["dots"](*inputs),
    )


def test_dots_policy_saves_the_results_of_cudnn():
    """JAX still calls its primitive by the name that the policy knows; this needs no GPU."""
    from jax._src.cudnn import fused_attention_stablehlo as fused

    primitive = fused._dot_product_attention_fwd_p_wrapper
    assert layers._REMAT_POLICIES["dots"](primitive)
    assert not layers._REMAT_POLICIES["dots"](fused._dot_product_attention_bwd_p_wrapper)
    assert not layers._REMAT_POLICIES["block"](primitive)


def test_memory_falls_with_what_is_saved(programs):
    """`pytest -s` shows it. A CPU offloads to itself, which saves nothing."""
    mebibytes = {name: program.memory_analysis().temp_size_in_bytes / 2**20 for name, program in programs.items()}
    for remat, size in mebibytes.items():
        print(f"remat={remat:8}{size:6.2f} MiB of temporaries")
    assert mebibytes["none"] > 1.2 * mebibytes["dots"]
    assert mebibytes["dots"] > 1.2 * mebibytes["block"]
    assert mebibytes["offload"] <= 1.05 * mebibytes["block"]


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_offload_the_inputs_of_layers_to_the_host(traces, platform):
    """Inputs of 16 prompts x 32 tokens x width 32 in the text, and of one row of 64 patches x width 16 in the tower."""
    lowered = traces["offload"].lower(lowering_platforms=(platform,)).as_text()
    moved = re.findall(r"annotate_device_placement.*pinned_host.*-> tensor<(\w+)>", lowered)
    assert set(moved) == {"16x32x32xf32", "1x64x16xf32"}
    assert "pinned_host" not in traces["block"].lower(lowering_platforms=(platform,)).as_text()
