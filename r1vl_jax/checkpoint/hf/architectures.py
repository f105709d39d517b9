"""How the architectures write their `config.json`: its sections, and what each calls the entries of `vision_config`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from r1vl_jax.models.qwen2_5_vl import config as qwen2_5_vl
from r1vl_jax.models.qwen2_vl import config as qwen2_vl
from r1vl_jax.models.qwen2_vl.config import TowerConfig


@dataclasses.dataclass(frozen=True)
class Architecture:
    """How the `vision_config` of one architecture is written.

    Attributes:
        architecture: its name, for messages.
        tower: what the sizes become; its fields are called as the entries are, but for those in `renamed`.
        renamed: field -> entry.
        feature_dim: the entry that holds the width of a feature, which must be the text's.
        hidden_act: the activation of the blocks' MLP.
        model_class: of transformers.
    """

    architecture: str
    tower: type[TowerConfig]
    renamed: Mapping[str, str]
    feature_dim: str
    hidden_act: str
    model_class: str

    def entry(self, field: str) -> str:
        return self.renamed.get(field, field)


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
    """The objects that a `config.json` is made of.

    Attributes:
        text: the entries at the top, with those of `text_config` over them, and `rope_theta` wherever it stands.
        faults: one line for each section that is no object; an empty one stands in its place.
    """

    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    rope: Mapping[str, Any]
    faults: tuple[str, ...]


def sections(config: Mapping[str, Any]) -> Sections:
    """Takes a `config.json` apart, in any layout."""
    faults: list[str] = []
    text = {**config, **_object(config, "text_config", faults)}
    vision = _object(config, "vision_config", faults)
    rope = _object(text, "rope_parameters", faults) or _object(text, "rope_scaling", faults)
    if "rope_theta" in rope:
        text["rope_theta"] = rope["rope_theta"]
    return Sections(text, vision, rope, tuple(faults))


def _object(section: Mapping[str, Any], name: str, faults: list[str]) -> Mapping[str, Any]:
    value = section.get(name)
    if value is None or isinstance(value, dict):
        return value or {}
    faults.append(f"{name}: expected an object, got {value!r}")
    return {}
