"""PEFT loads a saved adapter around transformers' model, and computes the same logits."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from flax.traverse_util import flatten_dict
from helpers.small import make_adapter, merged_params
from helpers.twins import Twins, make_inputs, make_twins, to_torch
from safetensors.numpy import load_file

from r1vl_jax.chat.pretrained import Pretrained
from r1vl_jax.checkpoint.hf.peft import load_adapter, save_adapter
from r1vl_jax.models.lora import LoRA, is_adapter
from r1vl_jax.models.trainable import combine

INPUTS = make_inputs([[(1, 4, 2), (1, 2, 6)], [], [(1, 4, 4)]])
IS_REAL_BT = INPUTS["attention_mask"] != 0
# Target modules in every part of the model, by suffix and by whole path.
LORAS = {
    "qwen2_vl": LoRA(3, 6.0, ("q_proj", "down_proj", "attn.proj", "fc1", "mlp_0", "visual.merger.mlp_2")),
    "qwen2_5_vl": LoRA(3, 6.0, ("q_proj", "down_proj", "attn.proj", "blocks.mlp.gate_proj", "mlp_0", "mlp_2")),
}
both_architectures = pytest.mark.parametrize("architecture", LORAS, indirect=True)


@pytest.fixture(scope="module")
def architecture(request: pytest.FixtureRequest) -> str:
    return getattr(request, "param", "qwen2_vl")


@pytest.fixture(scope="module")
def twins(architecture: str, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    return make_twins(tmp_path_factory.mktemp("twins"), tie_word_embeddings=False, architecture=architecture)


@pytest.fixture(scope="module")
def adapted(architecture: str, twins: Twins) -> Pretrained:
    definition = dataclasses.replace(twins.ours.definition, lora=LORAS[architecture])
    return Pretrained(definition, combine(make_adapter(definition), twins.ours.params))


def logits_of_peft(twins: Twins, directory: Path) -> np.ndarray:
    model = peft.PeftModel.from_pretrained(twins.torch_model, directory)
    with torch.no_grad():
        logits = model(**to_torch(INPUTS)).logits.numpy()
    model.unload()
    return logits[IS_REAL_BT]


@both_architectures
def test_peft_computes_the_same_logits(twins: Twins, adapted: Pretrained, tmp_path: Path):
    save_adapter(tmp_path, adapted.params, adapted.definition, base_model="a/model")
    expected = logits_of_peft(twins, tmp_path)
    assert np.abs(expected - twins.ours(**INPUTS)[IS_REAL_BT]).mean() > 0.1, "the adapter must matter"
    np.testing.assert_allclose(adapted(**INPUTS)[IS_REAL_BT], expected, rtol=0, atol=1e-4)


@both_architectures
def test_the_merged_base_computes_the_same_logits(adapted: Pretrained):
    merged = Pretrained(adapted.definition.base, merged_params(adapted.params, adapted.definition.lora))
    np.testing.assert_allclose(merged(**INPUTS)[IS_REAL_BT], adapted(**INPUTS)[IS_REAL_BT], rtol=0, atol=1e-4)


@both_architectures
def test_what_is_saved_is_loaded(adapted: Pretrained, tmp_path: Path):
    save_adapter(tmp_path, adapted.params, adapted.definition, base_model="a/model")
    lora, params = load_adapter(tmp_path, adapted.definition.base)
    assert (lora.r, lora.alpha) == (adapted.definition.lora.r, adapted.definition.lora.alpha)
    saved = {path: leaf for path, leaf in flatten_dict(adapted.params, sep=".").items() if is_adapter(path)}
    loaded = flatten_dict(params, sep=".")
    assert loaded.keys() == saved.keys()
    for path in saved:
        np.testing.assert_array_equal(loaded[path], saved[path])


def test_the_files(adapted: Pretrained, tmp_path: Path):
    save_adapter(tmp_path, adapted.params, adapted.definition, base_model="a/model")
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["base_model_name_or_path"]) == (3, 6.0, "a/model")
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    # 2 linear maps in each of 3 text layers and 2 vision blocks, 2 in the merger; each has matrices A and B.
    assert len(settings["target_modules"]) == 12
    assert len(tensors) == 24
    a = adapted.params["text"]["layers"]["self_attn"]["q_proj"]["lora_a"]
    name = "base_model.model.model.language_model.layers.2.self_attn.q_proj.lora_A.weight"
    np.testing.assert_array_equal(tensors[name], a[2].T)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_model_without_adapter_is_refused(twins: Twins, tmp_path: Path):
    with pytest.raises(ValueError, match="no adapter to save: model.lora_r is 0; export the whole model instead"):
        save_adapter(tmp_path, twins.ours.params, twins.ours.definition, base_model="a/model")
