"""Presets are consistent, and have the published numbers of parameters, which transformers builds too."""

import jax
import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from r1vl_jax.models.presets import PRESETS, preset
from r1vl_jax.models.qwen2_vl.model import Definition

# What determines the number of parameters in the published config.json files (TEXT_NAMES), and that number as the
# safetensors indices report it.
PUBLISHED = {
    "2b": ("1536 8960 28 12 2 151936", 2_208_985_600),
    "7b": ("3584 18944 28 28 4 152064", 8_291_375_616),
    "72b": ("8192 29568 80 64 8 152064", 73_405_560_320),
    "2.5-3b": ("2048 11008 36 16 2 151936", 3_754_622_976),
    "2.5-7b": ("3584 18944 28 28 4 152064", 8_292_166_656),
    "2.5-72b": ("8192 29568 80 64 8 152064", 73_410_777_344),
}
TIED = ("2b", "2.5-3b")
TEXT_NAMES = "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads vocab_size"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_consistent(name: str):
    config = preset(name)
    assert config.hidden_size == config.num_attention_heads * config.head_dim
    assert config.num_attention_heads % config.num_key_value_heads == 0
    assert 2 * sum(config.mrope_section) == config.head_dim
    assert config.vision.head_dim % 4 == 0


def test_an_unknown_preset_is_an_error_that_lists_the_presets():
    with pytest.raises(ValueError, match=r"model.preset='2.5-8b': expected one of tiny, 2b, 7b, 72b, 2.5-tiny, 2.5-3b"):
        preset("2.5-8b")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str):
    params = Definition(PRESETS[name]).abstract_params()
    total = PUBLISHED[name][1]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == total == _parameters_in_transformers(name)


def _parameters_in_transformers(name: str) -> int:
    """Counted on the meta device, without arrays."""
    text = dict(zip(TEXT_NAMES.split(), map(int, PUBLISHED[name][0].split()), strict=True))
    if name.startswith("2.5"):
        mlp_size = 3456 if name == "2.5-72b" else 3420
        vision = {"hidden_size": 1280, "intermediate_size": mlp_size, "out_hidden_size": text["hidden_size"]}
    else:
        vision = {"embed_dim": 1280, "hidden_size": text["hidden_size"]}
    model_type = "qwen2_5_vl" if name.startswith("2.5") else "qwen2_vl"
    config = AutoConfig.for_model(model_type, text_config=text, vision_config=vision, tie_word_embeddings=name in TIED)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    model.tie_weights()
    return sum(parameter.numel() for parameter in model.parameters())
