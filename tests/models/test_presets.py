"""Model sizes with a name: they are sound, and as large as what transformers would build."""

import jax
import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from r1vl_jax.models.presets import PRESETS, preset
from r1vl_jax.models.qwen2_vl.model import Definition

# What config.json says beside the published weights of Qwen2.5-VL, as far as it matters to the number of parameters.
PUBLISHED = {
    "2.5-3b": ("2048 11008 36 16 2 151936", 3420, True),
    "2.5-7b": ("3584 18944 28 28 4 152064", 3420, False),
    "2.5-72b": ("8192 29568 80 64 8 152064", 3456, False),
}
TEXT_NAMES = "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads vocab_size"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_consistent(name: str):
    config = preset(name)
    assert config.hidden_size == config.num_attention_heads * config.head_dim
    assert config.num_attention_heads % config.num_key_value_heads == 0
    assert 2 * sum(config.mrope_section) == config.head_dim
    assert config.vision.head_dim % 4 == 0


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"model.preset='2.5-8b': expected one of tiny, 2b, 7b, 72b, 2.5-tiny, 2.5-3b"):
        preset("2.5-8b")


@pytest.mark.parametrize(
    ("name", "total"), [("2.5-3b", 3_754_622_976), ("2.5-7b", 8_292_166_656), ("2.5-72b", 73_410_777_344)]
)
def test_published_sizes_of_qwen2_5_vl(name: str, total: int):
    """Numbers of parameters as the safetensors indices report them, and as transformers counts them, without arrays."""
    params = Definition(PRESETS[name]).abstract_params()
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == total == _parameters_in_transformers(name)


def _parameters_in_transformers(name: str) -> int:
    sizes, vision_size, is_tied = PUBLISHED[name]
    text = dict(zip(TEXT_NAMES.split(), map(int, sizes.split()), strict=True))
    vision = {"hidden_size": 1280, "intermediate_size": vision_size, "out_hidden_size": text["hidden_size"]}
    config = AutoConfig.for_model("qwen2_5_vl", text_config=text, vision_config=vision, tie_word_embeddings=is_tied)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    model.tie_weights()
    return sum(parameter.numel() for parameter in model.parameters())
