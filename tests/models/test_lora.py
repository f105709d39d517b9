"""LoRA: initial values, the function an adapter computes, merging, and target modules."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from helpers.small import CONFIG, DEFINITION, make_adapter, make_params, make_prompts, merged_params

from r1vl_jax.config import LORA_TARGETS
from r1vl_jax.models.lora import LoRA, is_adapter, linear_module_paths
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.models.trainable import FROZEN_BY, combine

LORA = LoRA(4, 8.0, ("q_proj", "gate_proj", "qkv", "mlp_2"))
ADAPTED = dataclasses.replace(DEFINITION, lora=LORA)


def hidden_states(definition: Definition, params) -> np.ndarray:
    @jax.jit
    def compute(params, prompts):
        model = definition.bind(params)
        return model.prefill(prompts, model.image_features(prompts.vision))[0]

    prompts = make_prompts()
    return np.asarray(compute(params, prompts))[prompts.mask_PS]


def test_a_new_adapter_computes_the_base_model_to_the_bit():
    params = jax.jit(ADAPTED.init)(jax.random.key(0))
    base = jax.jit(DEFINITION.init)(jax.random.key(0))
    flat = flatten_dict(params, sep=".")
    jax.tree.map(
        np.testing.assert_array_equal, {k: v for k, v in flat.items() if not is_adapter(k)}, flatten_dict(base, sep=".")
    )
    np.testing.assert_array_equal(hidden_states(ADAPTED, params), hidden_states(DEFINITION, base))


def test_initial_a_is_uniform_as_in_peft_and_b_zero():
    """torch.nn.init.kaiming_uniform_(a=sqrt(5)) is uniform in +-1/sqrt(in)."""
    wide = dataclasses.replace(ADAPTED, config=dataclasses.replace(CONFIG, intermediate_size=512))
    wide = dataclasses.replace(wide, lora=LoRA(16, 8.0, ("down_proj",)))
    down_proj = jax.jit(wide.init)(jax.random.key(1))["text"]["layers"]["mlp"]["down_proj"]
    a_LFR = np.asarray(down_proj["lora_a"])
    assert a_LFR.shape == (2, 512, 16)
    assert np.abs(a_LFR).max() == pytest.approx(512**-0.5, rel=1e-2)
    assert a_LFR.std() == pytest.approx((3 * 512) ** -0.5, rel=2e-2)
    assert np.abs(a_LFR[0] - a_LFR[1]).max() > 0.01, "layers start from the same numbers"
    assert not np.any(down_proj["lora_b"])


def test_merged_weights_compute_the_same_function():
    adapter, base = make_adapter(ADAPTED), make_params()
    params = combine(adapter, base)
    merged = merged_params(params, LORA)
    assert jax.tree.structure(merged) == jax.tree.structure(base)
    q_proj = params["text"]["layers"]["self_attn"]["q_proj"]
    expected = q_proj["kernel"][1] + 2.0 * q_proj["lora_a"][1] @ q_proj["lora_b"][1]
    np.testing.assert_allclose(merged["text"]["layers"]["self_attn"]["q_proj"]["kernel"][1], expected, rtol=1e-5)
    expected = hidden_states(ADAPTED, params)
    assert np.abs(expected - hidden_states(DEFINITION, base)).mean() > 0.1
    np.testing.assert_allclose(hidden_states(DEFINITION, merged), expected, atol=2e-4)


def test_merging_keeps_the_dtype_of_the_base():
    base = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), make_params())
    merged = merged_params(combine(make_adapter(ADAPTED), base), LORA)
    assert {leaf.dtype for leaf in jax.tree.leaves(merged)} == {jnp.dtype("bfloat16")}


def test_unknown_target_modules_are_listed_with_the_known_ones():
    wrong = dataclasses.replace(DEFINITION, lora=LoRA(2, 2.0, ("q_proj", "c_attn", "roj", "lm_head")))
    expected = (
        "lora_target_modules: no linear layer that can have an adapter is called c_attn, roj, lm_head; choose among"
        " down_proj, fc1, fc2, gate_proj, k_proj, mlp_0, mlp_2, o_proj, proj, q_proj, qkv, up_proj, v_proj"
    )
    with pytest.raises(ValueError, match=expected):
        wrong.abstract_params()


def test_the_configuration_knows_every_target_module():
    """Towers of other architectures use the names of the text decoder."""
    names = {path.rsplit(".", 1)[-1] for path in linear_module_paths(DEFINITION.abstract_params())}
    assert names == {name for names in LORA_TARGETS.values() for name in names}
    assert LORA_TARGETS.keys() == FROZEN_BY.keys()
