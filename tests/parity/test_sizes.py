"""The published sizes, as shapes alone: as many parameters as transformers' models and the published files have."""

import math

import jax
import pytest
import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from r1vl_jax.models.qwen2_vl.config import PRESETS
from r1vl_jax.models.qwen2_vl.model import Definition

NUM_PARAMETERS = {"2b": 2_208_985_600, "7b": 8_291_375_616, "72b": 73_405_560_320}

_TEXT = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
# As the published config.json files have them, in the order of _TEXT, then num_key_value_heads.
_PUBLISHED = {
    "2b": (151_936, 1536, 8960, 28, 12, 2),
    "7b": (152_064, 3584, 18_944, 28, 28, 4),
    "72b": (152_064, 8192, 29_568, 80, 64, 8),
}


@pytest.mark.parametrize("preset", NUM_PARAMETERS)
def test_number_of_parameters(preset: str):
    shapes = jax.tree.leaves(Definition(PRESETS[preset]).abstract_params())
    assert sum(math.prod(leaf.shape) for leaf in shapes) == NUM_PARAMETERS[preset]


@pytest.mark.parametrize("preset", NUM_PARAMETERS)
def test_transformers_has_as_many(preset: str):
    *text, num_key_value_heads = _PUBLISHED[preset]
    sizes = dict(zip(_TEXT, text, strict=True)) | {"num_key_value_heads": num_key_value_heads}
    vision = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "hidden_size": sizes["hidden_size"]}
    rope = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}
    config = Qwen2VLConfig(
        text_config=sizes | {"rope_parameters": rope}, vision_config=vision, tie_word_embeddings=preset == "2b"
    )
    with torch.device("meta"):
        torch_model = Qwen2VLForConditionalGeneration(config)
    assert sum(parameter.numel() for parameter in torch_model.parameters()) == NUM_PARAMETERS[preset]
