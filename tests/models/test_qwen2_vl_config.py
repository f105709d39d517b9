"""Reading config.json: both layouts give the presets, everything else is refused by name."""

import dataclasses

import pytest

from r1vl_jax.models.qwen2_vl.config import PRESETS, from_hf

# As published beside Qwen2-VL-7B-Instruct in 2024: text sizes at the top.
FLAT = {
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "hidden_act": "silu",
    "hidden_size": 3584,
    "image_token_id": 151655,
    "intermediate_size": 18944,
    "model_type": "qwen2_vl",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "video_token_id": 151656,
    "vision_config": {
        "depth": 32,
        "embed_dim": 1280,
        "hidden_size": 3584,
        "in_chans": 3,
        "mlp_ratio": 4,
        "model_type": "qwen2_vl",
        "num_heads": 16,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "temporal_patch_size": 2,
    },
    "vision_end_token_id": 151653,
    "vision_start_token_id": 151652,
    "vocab_size": 152064,
}
TEXT_NAMES = {
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "use_sliding_window",
    "vocab_size",
}


def _nested(flat: dict) -> dict:
    """As transformers 5 writes it."""
    rope = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": flat["rope_theta"]}
    text = {name: flat[name] for name in TEXT_NAMES} | {"model_type": "qwen2_vl_text", "rope_parameters": rope}
    outer = {name: flat[name] for name in flat.keys() - TEXT_NAMES - {"rope_scaling", "rope_theta"}}
    return outer | {"text_config": text}


@pytest.mark.parametrize("layout", [FLAT, _nested(FLAT)], ids=["flat", "nested"])
def test_published_file_gives_the_preset(layout: dict):
    assert from_hf(layout) == PRESETS["7b"]


@pytest.mark.parametrize("layout", [FLAT, _nested(FLAT)], ids=["flat", "nested"])
def test_settings_are_read_not_assumed(layout: dict):
    changed = {**layout, "tie_word_embeddings": True, "image_token_id": 5}
    rope = {"rope_theta": 5000.0, "rope_type": "default", "mrope_section": [8, 28, 28]}
    if "text_config" in changed:
        # Some versions write a second, unused tie_word_embeddings into text_config.
        changed["text_config"] = {**changed["text_config"], "rope_parameters": rope, "tie_word_embeddings": False}
    else:
        changed |= {"rope_theta": 5000.0, "rope_scaling": {"type": "mrope", "mrope_section": [8, 28, 28]}}
    expected = dataclasses.replace(
        PRESETS["7b"], tie_word_embeddings=True, image_token_id=5, rope_theta=5000.0, mrope_section=(8, 28, 28)
    )
    assert from_hf(changed) == expected


def test_another_architecture_is_refused():
    with pytest.raises(ValueError, match="model_type: expected 'qwen2_vl', got 'llama'"):
        from_hf({"model_type": "llama"})


def test_all_missing_entries_are_listed():
    config = {name: value for name, value in FLAT.items() if name not in ("vocab_size", "rope_scaling")}
    config["vision_config"] = {"depth": 32, "num_heads": 16, "hidden_size": 3584}
    with pytest.raises(ValueError, match="does not describe a Qwen2-VL") as error:
        from_hf(config)
    assert str(error.value).splitlines()[1:] == [
        "  vocab_size: expected a number, got nothing",
        "  vision_config.embed_dim: expected a number, got nothing",
        "  rope_scaling.mrope_section: expected three numbers, got nothing",
    ]


def test_all_variants_not_computed_here_are_listed():
    config = {**FLAT, "hidden_act": "gelu", "use_sliding_window": True}
    config["rope_scaling"] = {"type": "yarn", "mrope_section": [16, 24, 20]}
    config["vision_config"] = {**FLAT["vision_config"], "hidden_size": 1536, "hidden_act": "silu"}
    with pytest.raises(ValueError, match="does not describe a Qwen2-VL") as error:
        from_hf(config)
    assert str(error.value).splitlines()[1:] == [
        "  rope type: expected 'default', got 'yarn'",
        "  hidden_act: expected 'silu', got 'gelu'",
        "  vision_config.hidden_act: expected 'quick_gelu', got 'silu'",
        "  use_sliding_window: expected False, got True",
        "  vision_config.hidden_size: expected 3584, got 1536",
        "  mrope_section: expected three numbers that sum to 64, half a head, got [16, 24, 20]",
    ]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_consistent(preset: str):
    config = PRESETS[preset]
    assert config.hidden_size == config.num_attention_heads * config.head_dim
    assert config.num_attention_heads % config.num_key_value_heads == 0
    assert 2 * sum(config.mrope_section) == config.head_dim
    assert config.vision.head_dim % 4 == 0
