"""A run starts from an adapter as PEFT or an export wrote it, if the settings are those of the adapter."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from helpers.chat_model import write_chat_model
from helpers.small import make_adapter

from r1vl_jax.checkpoint.hf.load import read_config
from r1vl_jax.checkpoint.hf.peft import save_adapter
from r1vl_jax.checkpoint.model_config import expected_config
from r1vl_jax.config import Config, Model
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.models.trainable import make_lora
from r1vl_jax.sharding.mesh import make_mesh
from r1vl_jax.training.adapter import initial_adapter
from r1vl_jax.training.components import initial_params, make_definition

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


def test_a_scale_that_a_setting_can_only_round_is_the_adapters_own(saved, tmp_path):
    """As of rank-stabilised adapters, which scale by alpha / sqrt(r): no setting would be exact."""
    shutil.copytree(saved[0], tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_rslora": True, "lora_alpha": 8 / 3}))
    settings = dataclasses.replace(SETTINGS, adapter_path=str(tmp_path / "adapter"), lora_alpha=5.33333)
    assert initial_adapter(settings, define(settings)) is not None
    other = dataclasses.replace(settings, lora_alpha=5.3)
    with pytest.raises(ValueError, match=r"the adapter has 5.33333; set model.lora_alpha=5.33333$"):
        initial_adapter(other, define(other))


def test_the_run_has_it_beside_the_base(tmp_path):
    """Not a new one, whose B would be zero."""
    write_chat_model(tmp_path / "base")
    model = dataclasses.replace(SETTINGS, path=str(tmp_path / "base"))
    settings = dataclasses.replace(Config(), model=model)
    mesh = make_mesh(settings.mesh, jax.devices()[:1])
    definition = make_definition(settings, read_config(model.path), mesh, platform="cpu")
    adapter = make_adapter(definition)
    params = flatten_dict(initial_params(settings, model, definition, adapter), sep=".")
    for path, leaf in flatten_dict(adapter, sep=".").items():
        np.testing.assert_array_equal(params[path], leaf)
    new = flatten_dict(initial_params(settings, model, definition), sep=".")
    assert not any(np.any(new[path]) for path in new if path.endswith("lora_b"))
