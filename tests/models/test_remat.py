"""What is kept for the backward pass changes its memory and not its result."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import CONFIG, DEFINITION, make_params, make_prompts

from r1vl_jax.models.qwen2_vl.config import VisionConfig
from r1vl_jax.models.qwen2_vl.model import Definition

REMATS = ("none", "dots", "block", "offload")


def loss(definition: Definition, params, prompts) -> jax.Array:
    """Of text and vision together."""
    model = definition.bind(params)
    hidden_PSD, _ = model.prefill(prompts, model.image_features(prompts.vision))
    return jnp.mean(hidden_PSD**3)


def gradient_of(definition: Definition):
    return jax.jit(jax.grad(lambda params, prompts: loss(definition, params, prompts)))


@pytest.fixture(scope="module")
def kept_everything():
    return gradient_of(dataclasses.replace(DEFINITION, remat="none"))(make_params(), make_prompts())


@pytest.mark.parametrize("remat", REMATS[1:])
def test_gradients_are_equal(remat, kept_everything):
    gradient = gradient_of(dataclasses.replace(DEFINITION, remat=remat))(make_params(), make_prompts())

    def compare(actual, expected):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())

    jax.tree.map(compare, gradient, kept_everything)
    assert np.abs(gradient["visual"]["blocks"]["mlp"]["fc1"]["kernel"]).max() > 0


def test_memory_falls_with_what_is_kept():
    """Of the compiled gradient, for eight layers of text and of vision; `-s` shows it. A CPU offloads to itself."""
    vision = VisionConfig(depth=8, embed_dim=16, num_heads=2)
    deep = dataclasses.replace(DEFINITION, config=dataclasses.replace(CONFIG, num_hidden_layers=8, vision=vision))
    prompts = make_prompts(num_prompts=16, length=32)
    mebibytes = {}
    for remat in REMATS:
        definition = dataclasses.replace(deep, remat=remat)
        compiled = gradient_of(definition).lower(definition.abstract_params(), prompts).compile()
        mebibytes[remat] = compiled.memory_analysis().temp_size_in_bytes / 2**20
        print(f"remat={remat:8} {mebibytes[remat]:6.2f} MiB of temporaries")
    assert mebibytes["none"] > 1.2 * mebibytes["dots"]
    assert mebibytes["dots"] > 1.2 * mebibytes["block"]
    assert mebibytes["offload"] <= 1.05 * mebibytes["block"]
