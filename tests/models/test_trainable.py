"""Which parameters are trained and which are frozen, by settings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from helpers.small import CONFIG, DEFINITION, make_params

from r1vl_jax.config import Model
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.models.trainable import cast_frozen, combine, make_lora, partition

# With an untied head, so that every part of the table has parameters.
UNTIED = Definition(dataclasses.replace(CONFIG, tie_word_embeddings=False))


def tops(params: dict) -> set[str]:
    """The first part of every leaf's path, and for the vision tower the second too."""
    paths = flatten_dict(params, sep=".")
    return {".".join(path.split(".")[: 2 if path.startswith("visual") else 1]) for path in paths}


ALL = {"visual.patch_embed", "visual.blocks", "visual.merger", "text", "lm_head"}


@pytest.mark.parametrize(
    ("settings", "frozen"),
    [
        ({}, set()),
        ({"freeze_vision_tower": True}, {"visual.patch_embed", "visual.blocks"}),
        ({"freeze_merger": True}, {"visual.merger"}),
        ({"freeze_language_model": True}, {"text", "lm_head"}),
        ({"freeze_vision_tower": True, "freeze_language_model": True}, ALL - {"visual.merger"}),
    ],
)
def test_partition_and_combine(settings, frozen):
    params = UNTIED.abstract_params()
    trained_params, frozen_params = partition(params, Model(**settings))
    assert tops(frozen_params) == frozen
    assert tops(trained_params) == ALL - frozen
    assert combine(trained_params, frozen_params) == params


def test_with_lora_only_the_adapter_is_trained():
    model = Model(lora_r=4, lora_target_modules=("q_proj", "qkv"))
    definition = dataclasses.replace(DEFINITION, lora=make_lora(DEFINITION, model))
    trained, frozen = partition(definition.abstract_params(), model)
    assert set(flatten_dict(trained, sep=".")) == {
        f"{path}.lora_{part}" for path in ("text.layers.self_attn.q_proj", "visual.blocks.attn.qkv") for part in "ab"
    }
    assert frozen == DEFINITION.abstract_params()


def test_frozen_parts_get_no_adapter():
    model = Model(lora_r=4, lora_target_modules=("q_proj",), freeze_vision_tower=True)
    assert make_lora(DEFINITION, model).target_modules == ("text.layers.self_attn.q_proj",)
    with_frozen_target = dataclasses.replace(model, lora_target_modules=("q_proj", "qkv"))
    with pytest.raises(ValueError, match="that can have an adapter is called qkv; choose among down_proj,"):
        make_lora(DEFINITION, with_frozen_target)
    assert make_lora(DEFINITION, Model()) is None


def test_the_merger_may_be_targeted_by_pefts_names():
    by_peft = Model(lora_r=4, lora_target_modules=("mlp.0", "mlp.2", "mlp_2"))
    assert make_lora(DEFINITION, by_peft).target_modules == ("visual.merger.mlp_0", "visual.merger.mlp_2")


def test_frozen_parameters_are_kept_in_the_dtype_of_the_computation():
    model = Model(dtype="bfloat16", freeze_vision_tower=True)
    params = make_params()
    kept = cast_frozen(params, model)
    trained, frozen = partition(kept, model)
    assert {leaf.dtype for leaf in jax.tree.leaves(trained)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(frozen)} == {jnp.dtype("bfloat16")}
    jax.tree.map(
        lambda old, new: np.testing.assert_array_equal(old.astype(new.dtype), new),
        params,
        kept,
    )
