"""A run starts from an adapter as PEFT or an export wrote it, if the settings are those of the adapter."""

import dataclasses
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from helpers.small import make_adapter

from r1vl_jax.checkpoint.hf.peft import save_adapter
from r1vl_jax.checkpoint.model_config import expected_config
from r1vl_jax.config import Model
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.models.trainable import make_lora
from r1vl_jax.training.adapter import initial_adapter

SETTINGS = Model(path="base", lora_r=4, lora_alpha=8.0, lora_target_modules=("q_proj", "qkv"))


def define(settings: Model) -> Definition:
    base = Definition(expected_config(Model()))
    return dataclasses.replace(base, lora=make_lora(base, settings))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, dict]:
    """A directory with an adapter, and its parameters by path."""
    directory, definition = tmp_path_factory.mktemp("adapter"), define(SETTINGS)
    params = make_adapter(definition)
    save_adapter(directory, params, definition, base_model="base")
    return directory, flatten_dict(params, sep=".")


def test_without_one_a_new_adapter_is_made():
    assert initial_adapter(SETTINGS, define(SETTINGS)) is None


@pytest.mark.parametrize("changes", [{}, {"lora_target_modules": ("qkv", "q_proj")}])
def test_training_starts_from_what_was_saved(saved, changes):
    settings = dataclasses.replace(SETTINGS, adapter_path=str(saved[0]), **changes)
    params = initial_adapter(settings, define(settings))
    assert params is not None
    found = flatten_dict(params, sep=".")
    assert {leaf.dtype for leaf in found.values()} == {np.dtype("float32")}
    jax.tree.map(np.testing.assert_array_equal, found, saved[1])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lora_r": 8, "lora_alpha": 16.0}, "model.lora_r=8: the adapter has r=4; set model.lora_r=4"),
        ({"lora_alpha": 4.0}, "model.lora_alpha=4: the adapter has 8; set model.lora_alpha=8"),
        (
            {"lora_target_modules": ("q_proj",)},
            "model.lora_target_modules: the adapter and the settings differ in visual.blocks.attn.qkv; the adapter's"
            " modules are q_proj, qkv",
        ),
    ],
)
def test_an_adapter_of_other_settings_is_refused(saved, changes, reason):
    settings = dataclasses.replace(SETTINGS, adapter_path=str(saved[0]), **changes)
    with pytest.raises(ValueError, match=re.escape(f" is an adapter of other settings:\n  {reason}") + "$"):
        initial_adapter(settings, define(settings))
