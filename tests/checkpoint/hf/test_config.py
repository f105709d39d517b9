"""Reading config.json: every layout gives the presets and what transformers reads; all else is refused by name."""

import copy
import dataclasses
from collections.abc import Callable

import pytest
from transformers import AutoConfig

from r1vl_jax.checkpoint.hf.architectures import ARCHITECTURES
from r1vl_jax.checkpoint.hf.config import from_hf
from r1vl_jax.models.presets import PRESETS

# As published beside Qwen2-VL-7B-Instruct in 2024: text sizes at the top.
QWEN2_VL = {
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
# As published beside Qwen2.5-VL-7B-Instruct in 2025.
QWEN2_5_VL = {
    **QWEN2_VL,
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "model_type": "qwen2_5_vl",
    "vision_config": {
        "depth": 32,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "hidden_act": "silu",
        "hidden_size": 1280,
        "in_chans": 3,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "temporal_patch_size": 2,
        "tokens_per_second": 2,
        "window_size": 112,
    },
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
    """The layout that transformers 5 writes."""
    rope = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": flat["rope_theta"]}
    text = {name: flat[name] for name in TEXT_NAMES} | {"model_type": "qwen2_vl_text", "rope_parameters": rope}
    outer = {name: flat[name] for name in flat.keys() - TEXT_NAMES - {"rope_scaling", "rope_theta"}}
    return outer | {"text_config": text}


def _nested_and_flat(flat: dict) -> dict:
    """The layout of some files of 2025: the text's entries in both places."""
    return flat | _nested(flat)


def _nested_with_rope_scaling(flat: dict) -> dict:
    nested = _nested(flat)
    rope = {"rope_scaling": flat["rope_scaling"], "rope_theta": flat["rope_theta"]}
    text = {name: value for name, value in nested["text_config"].items() if name != "rope_parameters"}
    return nested | {"text_config": text | rope}


def _both_rope_sections(flat: dict) -> dict:
    return flat | {"rope_parameters": {"rope_type": "default", "mrope_section": [20, 22, 22], "rope_theta": 5.0}}


LAYOUTS = (dict, _nested, _nested_and_flat, _nested_with_rope_scaling, _both_rope_sections)


@pytest.mark.parametrize("in_layout", LAYOUTS)
@pytest.mark.parametrize("published", [QWEN2_VL, QWEN2_5_VL], ids=["qwen2_vl", "qwen2_5_vl"])
def test_every_layout_is_read_as_transformers_reads_it(published: dict, in_layout: Callable[[dict], dict]):
    content = in_layout(
        published | {"rope_theta": 5000.0, "rms_norm_eps": 1e-4, "tie_word_embeddings": True, "image_token_id": 7}
    )
    ours = from_hf(content)
    content = copy.deepcopy(content)  # transformers changes what it reads
    theirs = AutoConfig.for_model(content.pop("model_type"), **content)
    text, rope = theirs.text_config, theirs.text_config.rope_parameters
    assert (ours.rope_theta, list(ours.mrope_section)) == (rope["rope_theta"], rope["mrope_section"])
    assert ours.rope_theta == 5000.0
    for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.tie_word_embeddings == theirs.tie_word_embeddings
    read_elsewhere = {"vision", "mrope_section", "rope_theta", "tie_word_embeddings"}
    for field in dataclasses.fields(ours):
        if field.name not in read_elsewhere and not field.name.endswith("_token_id"):
            assert getattr(ours, field.name) == getattr(text, field.name), field.name
    architecture = ARCHITECTURES[published["model_type"]]
    for field in dataclasses.fields(ours.vision):
        expected = getattr(theirs.vision_config, architecture.entry_name(field.name), None)
        expected = tuple(expected) if isinstance(expected, list) else expected
        assert getattr(ours.vision, field.name) == expected, field.name


# Of the text model, as transformers 4.52 and later write them where the model has none of its own.
NULLS = {
    "image_token_id": None,
    "video_token_id": None,
    "vision_start_token_id": None,
    "vision_end_token_id": None,
    "head_dim": None,
    "layer_types": None,
    "sliding_window": None,
    "use_sliding_window": None,
    "tie_word_embeddings": None,
    "rope_scaling": None,
    "pad_token_id": None,
    "quantization_config": None,
    "attention_dropout": None,
}


@pytest.mark.parametrize("token_id", [7, None], ids=["of the model", "of the published models"])
@pytest.mark.parametrize("published", [QWEN2_VL, QWEN2_5_VL], ids=["qwen2_vl", "qwen2_5_vl"])
def test_null_states_nothing(published: dict, token_id: int | None):
    nested = _nested(published) | {"image_token_id": token_id, "torch_dtype": None, "quantization_config": None}
    text = nested["text_config"] | NULLS | {"hidden_act": None}
    text["rope_parameters"] = text["rope_parameters"] | {"rope_type": None, "type": "mrope"}
    vision = nested["vision_config"] | {"hidden_act": None, "in_chans": None, "rope_parameters": None}
    config = from_hf(nested | {"text_config": text, "vision_config": vision})
    assert config == dataclasses.replace(from_hf(published), image_token_id=token_id or 151655)


def test_null_does_not_hide_the_entry_of_the_top_level():
    nulls = dict.fromkeys([*TEXT_NAMES, "rope_theta"])
    changed = QWEN2_VL | {"rope_theta": 5000.0, "rms_norm_eps": 1e-4, "num_key_value_heads": 2}
    assert from_hf(changed | {"text_config": nulls}) == from_hf(changed)


def test_a_theta_that_is_null_does_not_hide_the_other():
    rope = {"mrope_section": [16, 24, 24]}
    for changes in ({"rope_scaling": rope | {"rope_theta": None}}, {"text_config": {"rope_theta": None}}):
        assert from_hf(QWEN2_VL | {"rope_theta": 5000.0} | changes).rope_theta == 5000.0
    nested = _nested(QWEN2_VL)
    nested["text_config"]["rope_parameters"]["rope_theta"] = None
    with pytest.raises(ValueError, match="rope_theta: expected a number of at least 1, got None"):
        from_hf(nested)


def test_without_a_number_of_key_value_heads_there_is_one_for_each_head():
    """As transformers reads null; an absent entry is a fault."""
    config = from_hf(QWEN2_VL | {"num_key_value_heads": None})
    assert config == dataclasses.replace(PRESETS["7b"], num_key_value_heads=28)
    theirs = AutoConfig.for_model(**copy.deepcopy(_nested(QWEN2_VL | {"num_key_value_heads": None})))
    assert theirs.text_config.num_key_value_heads == 28
    absent = {name: value for name, value in QWEN2_VL.items() if name != "num_key_value_heads"}
    with pytest.raises(ValueError, match="num_key_value_heads: expected an integer of at least 1, got nothing"):
        from_hf(absent)


def test_the_token_ids_of_the_top_level_are_the_models():
    nested = _nested(QWEN2_VL) | {"image_token_id": 7}
    nested["text_config"] |= {"image_token_id": 151655, "video_token_id": 9}
    assert from_hf(nested) == dataclasses.replace(PRESETS["7b"], image_token_id=7)


@pytest.mark.parametrize("in_layout", [dict, _nested], ids=["flat", "nested"])
@pytest.mark.parametrize(("published", "preset"), [(QWEN2_VL, "7b"), (QWEN2_5_VL, "2.5-7b")])
def test_published_file_gives_the_preset(published: dict, preset: str, in_layout: Callable[[dict], dict]):
    assert from_hf(in_layout(published)) == PRESETS[preset]


def test_entries_of_the_windowed_tower_are_read_not_assumed():
    changed = {"window_size": 56, "fullatt_block_indexes": [0, 3], "tokens_per_second": 25, "intermediate_size": 99}
    config = from_hf({**QWEN2_5_VL, "vision_config": QWEN2_5_VL["vision_config"] | changed})
    expected = {**changed, "fullatt_block_indexes": (0, 3)}
    assert config.vision == dataclasses.replace(PRESETS["2.5-7b"].vision, **expected)
    hash(config)  # it must serve as a static argument


@pytest.mark.parametrize("layout", [QWEN2_VL, _nested(QWEN2_VL)], ids=["flat", "nested"])
def test_entries_are_read_not_assumed(layout: dict):
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
    with pytest.raises(ValueError, match="model_type: expected 'qwen2_vl' or 'qwen2_5_vl', got 'llama'"):
        from_hf({"model_type": "llama"})


def test_missing_entries_have_the_names_of_their_architecture():
    with pytest.raises(ValueError, match=r"does not describe a Qwen2\.5-VL model") as error:
        from_hf({**QWEN2_5_VL, "vision_config": QWEN2_VL["vision_config"]})
    assert str(error.value).splitlines()[1:] == [
        "  vision_config.intermediate_size: expected an integer of at least 1, got nothing",
        "  vision_config.out_hidden_size: expected an integer of at least 1, got nothing",
    ]


def test_all_missing_entries_are_listed():
    config = {name: value for name, value in QWEN2_VL.items() if name not in ("vocab_size", "rope_scaling")}
    config["vision_config"] = {"depth": 32, "num_heads": 16, "hidden_size": 3584}
    with pytest.raises(ValueError, match="does not describe a Qwen2-VL") as error:
        from_hf(config)
    assert str(error.value).splitlines()[1:] == [
        "  vocab_size: expected an integer of at least 1, got nothing",
        "  vision_config.embed_dim: expected an integer of at least 1, got nothing",
        "  mrope_section: expected three integers that sum to 64, half a head, got nothing",
    ]


def test_all_unsupported_variants_are_listed():
    config = {**QWEN2_VL, "hidden_act": "gelu", "use_sliding_window": True}
    config["rope_scaling"] = {"type": "yarn", "mrope_section": [16, 24, 20]}
    config["vision_config"] = {
        **QWEN2_VL["vision_config"],
        "hidden_size": 1536,
        "hidden_act": "silu",
        "rope_parameters": {"rope_theta": 500.0},
    }
    with pytest.raises(ValueError, match="does not describe a Qwen2-VL") as error:
        from_hf(config)
    assert str(error.value).splitlines()[1:] == [
        "  rope type: expected 'default' or 'mrope', got 'yarn'",
        "  hidden_act: expected 'silu', got 'gelu'",
        "  vision_config.hidden_act: expected 'quick_gelu', got 'silu'",
        "  use_sliding_window: expected False, got True",
        "  vision_config.rope_parameters.rope_theta: expected 10000.0, got 500.0",
        "  mrope_section: expected three integers that sum to 64, half a head, got [16, 24, 20]",
        "  vision_config.hidden_size: expected 3584, hidden_size, got 1536",
    ]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"hidden_size": "3584"}, "hidden_size: expected an integer of at least 1, got '3584'"),
        ({"num_attention_heads": 0}, "num_attention_heads: expected an integer of at least 1, got 0"),
        ({"num_hidden_layers": None}, "num_hidden_layers: expected an integer of at least 1, got None"),
        ({"num_hidden_layers": -2}, "num_hidden_layers: expected an integer of at least 1, got -2"),
        ({"num_hidden_layers": 28.0}, "num_hidden_layers: expected an integer of at least 1, got 28.0"),
        ({"num_hidden_layers": True}, "num_hidden_layers: expected an integer of at least 1, got True"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps: expected a number of at least 0, got nan"),
        ({"rope_theta": None}, "rope_theta: expected a number of at least 1, got None"),
        (
            {"rope_theta": None, "rope_scaling": {"mrope_section": [16, 24, 24], "rope_theta": None}},
            "rope_theta: expected a number of at least 1, got None",
        ),
        ({"image_token_id": "<image>"}, "image_token_id: expected an integer of at least 0, got '<image>'"),
        (
            {"num_attention_heads": 27, "num_key_value_heads": 27},
            "hidden_size: expected a multiple of num_attention_heads = 27, got 3584",
        ),
        ({"num_key_value_heads": 3}, "num_attention_heads: expected a multiple of num_key_value_heads = 3, got 28"),
        ({"head_dim": 64}, "head_dim: expected hidden_size / num_attention_heads = 128, got 64"),
        ({"text_config": [1]}, "text_config: expected an object, got [1]"),
        ({"rope_parameters": "yarn"}, "rope_parameters: expected an object, got 'yarn'"),
        (
            {"rope_scaling": {"mrope_section": None}},
            "mrope_section: expected three integers that sum to 64, half a head, got None",
        ),
        (
            {"rope_scaling": {"mrope_section": "abc"}},
            "mrope_section: expected three integers that sum to 64, half a head, got 'abc'",
        ),
        (
            {"rope_scaling": {"mrope_section": [64]}},
            "mrope_section: expected three integers that sum to 64, half a head, got [64]",
        ),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings: expected False or True, got 'no'"),
        (
            {"quantization_config": "awq"},
            "quantization_config: expected none (take the weights before quantization), got 'awq'",
        ),
        (
            {"layer_types": ["full_attention", "sliding_attention"]},
            "layer_types: expected 'full_attention' for every layer, got ['sliding_attention']",
        ),
        (
            {"layer_types": "sliding_attention"},
            "layer_types: expected 'full_attention' for every layer, got 'sliding_attention'",
        ),
    ],
)
def test_a_bad_entry_is_the_only_fault(changes: dict, fault: str):
    with pytest.raises(ValueError, match=r"config\.json does not describe a Qwen2-VL model") as error:
        from_hf(QWEN2_VL | changes)
    assert str(error.value).splitlines()[1:] == [f"  {fault}"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"num_heads": 7}, "hidden_size: expected a multiple of 4 x vision_config.num_heads = 28, got 1280"),
        ({"depth": "32"}, "depth: expected an integer of at least 1, got '32'"),
        ({"patch_size": None}, "patch_size: expected an integer of at least 1, got None"),
        ({"patch_size": 16}, "patch_size: expected 14, the only one supported, got 16"),
        ({"temporal_patch_size": 1}, "temporal_patch_size: expected 2, the only one supported, got 1"),
        ({"spatial_merge_size": 3}, "spatial_merge_size: expected 2, the only one supported, got 3"),
        ({"window_size": 14}, "window_size: expected at least patch_size x spatial_merge_size = 28, got 14"),
        ({"in_chans": 4}, "in_chans: expected 3, got 4"),
        ({"in_channels": 1}, "in_channels: expected 3, got 1"),
        ({"rope_parameters": [1]}, "rope_parameters.rope_theta: expected 10000.0, got [1]"),
        ({"fullatt_block_indexes": 7}, "fullatt_block_indexes: expected a list of integers of at least 0, got 7"),
    ],
)
def test_a_bad_entry_of_the_tower_is_the_only_fault(changes: dict, fault: str):
    with pytest.raises(ValueError, match=r"config\.json does not describe a Qwen2\.5-VL model") as error:
        from_hf(QWEN2_5_VL | {"vision_config": QWEN2_5_VL["vision_config"] | changes})
    assert str(error.value).splitlines()[1:] == [f"  vision_config.{fault}"]


def test_a_model_type_that_is_no_string_is_refused():
    with pytest.raises(ValueError, match=r"model_type: expected 'qwen2_vl' or 'qwen2_5_vl', got \['qwen2_vl'\]"):
        from_hf(QWEN2_VL | {"model_type": ["qwen2_vl"]})


def test_a_missing_entry_does_not_hide_a_variant():
    config = {name: value for name, value in QWEN2_VL.items() if name != "vocab_size"} | {"hidden_act": "gelu"}
    with pytest.raises(ValueError, match="does not describe a Qwen2-VL") as error:
        from_hf(config)
    assert str(error.value).splitlines()[1:] == [
        "  vocab_size: expected an integer of at least 1, got nothing",
        "  hidden_act: expected 'silu', got 'gelu'",
    ]


def test_redundant_entries_are_accepted():
    stated = {"head_dim": 128, "layer_types": ["full_attention"] * 28, "quantization_config": None}
    assert from_hf(QWEN2_VL | stated) == PRESETS["7b"]
