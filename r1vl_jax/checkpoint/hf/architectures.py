"""The entries of `config.json` for each supported architecture, and the sections that they are in."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from r1vl_jax.models.qwen2_5_vl import config as qwen2_5_vl
from r1vl_jax.models.qwen2_vl import config as qwen2_vl
from r1vl_jax.models.qwen2_vl.config import TowerConfig


@dataclasses.dataclass(frozen=True)
class Architecture:
    """How one architecture writes its `vision_config`.

    Attributes:
        name: for error messages.
        vision_class: our configuration of the vision tower; its fields have the names of the entries, except those in
            `entry_names`.
        entry_names: field -> entry.
        feature_size_entry: the entry with the size of a vision feature, which must equal the text's hidden size.
        hidden_act: the activation of the blocks' MLP.
        model_class: transformers' name of the model.
    """

    name: str
    vision_class: type[TowerConfig]
    entry_names: Mapping[str, str]
    feature_size_entry: str
    hidden_act: str
    model_class: str

    def entry_name(self, field: str) -> str:
        return self.entry_names.get(field, field)


ARCHITECTURES = {
    "qwen2_vl": Architecture(
        "Qwen2-VL", qwen2_vl.VisionConfig, {}, "hidden_size", "quick_gelu", "Qwen2VLForConditionalGeneration"
    ),
    "qwen2_5_vl": Architecture(
        "Qwen2.5-VL",
        qwen2_5_vl.VisionConfig,
        {"embed_dim": "hidden_size"},
        "out_hidden_size",
        "silu",
        "Qwen2_5_VLForConditionalGeneration",
    ),
}

TEXT_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
TOKEN_IDS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


@dataclasses.dataclass(frozen=True)
class Sections:
    """The sections of a `config.json`, whatever its layout.

    Attributes:
        text: the entries at the top level, overridden by those of `text_config` that are not null; with `rope_theta`
            from `rope`, and with the token ids of the top level, which are the model's.
        vision: `vision_config`.
        rope: `rope_scaling`, or `rope_parameters`.
        faults: one line for each section that is no JSON object; it is empty here.
    """

    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    rope: Mapping[str, Any]
    faults: tuple[str, ...]


def split_sections(config: Mapping[str, Any]) -> Sections:
    """Finds the sections of a `config.json` in the flat and in the nested layout."""
    faults: list[str] = []
    nested = _section(config, "text_config", faults)
    # transformers 4.52 and later write there, as null, what they have at the top level only.
    text = {**config, **{name: value for name, value in nested.items() if value is not None or name not in config}}
    text |= {name: config[name] for name in TOKEN_IDS if config.get(name) is not None}
    if text.get("num_key_value_heads", ...) is None:  # as transformers reads null: no grouped-query attention
        text["num_key_value_heads"] = text.get("num_attention_heads")
    vision = _section(config, "vision_config", faults)
    rope_scaling, rope_parameters = (_section(text, name, faults) for name in ("rope_scaling", "rope_parameters"))
    rope = rope_scaling or rope_parameters  # transformers' order
    if "rope_theta" in rope and (rope["rope_theta"] is not None or "rope_theta" not in text):
        text["rope_theta"] = rope["rope_theta"]
    return Sections(text, vision, rope, tuple(faults))


def _section(parent: Mapping[str, Any], name: str, faults: list[str]) -> Mapping[str, Any]:
    value = parent.get(name)
    if value is None or isinstance(value, dict):
        return value or {}
    faults.append(f"{name}: expected an object, got {value!r}")
    return {}
