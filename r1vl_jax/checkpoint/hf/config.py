"""Converts `config.json` from and to the model configuration, in every published layout.

The entries of the text model are at the top level (files of 2024 and 2025) or in `text_config`; the RoPE entries are
`rope_scaling` beside `rope_theta`, or `rope_parameters`. The entries of the vision tower depend on `model_type`.

Read here and not by transformers' configuration classes, because these stop at the first entry of a wrong type and give
an absent size that of the 72B model. The tests compare what is read here with what those classes read.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from r1vl_jax.checkpoint.hf.architectures import ARCHITECTURES, TEXT_SIZES, TOKEN_IDS, Architecture, split_sections
from r1vl_jax.checkpoint.hf.config_faults import find_faults
from r1vl_jax.models.qwen2_vl.config import Config, TowerConfig


def from_hf(config: Mapping[str, Any]) -> Config:
    """Reads the content of a `config.json`.

    Raises:
        ValueError: an unsupported architecture or variant of one; or entries that are missing, out of range or
            inconsistent. Lists all faults.
    """
    architecture = _architecture(config)
    sections = split_sections(config)
    if faults := list(find_faults(architecture, sections)):
        raise ValueError(
            f"config.json does not describe a {architecture.name} model that is supported:\n  " + "\n  ".join(faults)
        )
    text = sections.text
    return Config(
        **{name: text[name] for name in TEXT_SIZES},
        vision=_vision_config(architecture, sections.vision),
        tie_word_embeddings=bool(config.get("tie_word_embeddings") or text.get("tie_word_embeddings")),
        mrope_section=tuple(sections.rope["mrope_section"]),
        rope_theta=float(text.get("rope_theta", Config.rope_theta)),
        rms_norm_eps=text["rms_norm_eps"],
        initializer_range=text.get("initializer_range", Config.initializer_range),
        **{name: text[name] for name in TOKEN_IDS if text.get(name) is not None},
    )


def to_hf(config: Config) -> dict[str, Any]:
    """The content of a `config.json`, in the layout of the published files; `from_hf` reads it back."""
    (model_type,) = [name for name, each in ARCHITECTURES.items() if each.vision_class is type(config.vision)]
    architecture = ARCHITECTURES[model_type]
    top_level = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in ("vision", "mrope_section")
    }
    vision = {
        architecture.entry_name(field.name): getattr(config.vision, field.name)
        for field in dataclasses.fields(architecture.vision_class)
    }
    return top_level | {
        "architectures": [architecture.model_class],
        "model_type": model_type,
        "hidden_act": "silu",
        "rope_scaling": {"type": "mrope", "mrope_section": list(config.mrope_section)},
        "vision_config": vision | {"model_type": model_type, architecture.feature_size_entry: config.hidden_size},
    }


def _architecture(config: Mapping[str, Any]) -> Architecture:
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        known = " or ".join(repr(name) for name in ARCHITECTURES)
        raise ValueError(f"config.json describes no supported model: model_type: expected {known}, got {model_type!r}")
    return ARCHITECTURES[model_type]


def _vision_config(architecture: Architecture, vision: Mapping) -> TowerConfig:
    fields = dataclasses.fields(architecture.vision_class)
    entries = {field.name: architecture.entry_name(field.name) for field in fields}
    values = {name: vision[entry] for name, entry in entries.items() if entry in vision}
    hashable: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return architecture.vision_class(**hashable)
