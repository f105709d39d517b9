"""Reads the sizes of a model from the content of a `config.json`, in every layout in the wild, and writes them.

Text sizes stand at the top (2024 and 2025) or under `text_config`; the rope settings are called `rope_scaling` beside
`rope_theta`, or `rope_parameters`. The vision tower is described as its `model_type` does.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from r1vl_jax.checkpoint.hf.architectures import ARCHITECTURES, TEXT_SIZES, TOKEN_IDS, Architecture, sections
from r1vl_jax.checkpoint.hf.config_faults import faults
from r1vl_jax.models.qwen2_vl.config import Config, TowerConfig


def from_hf(config: Mapping[str, Any]) -> Config:
    """Reads the content of a `config.json`.

    Raises:
        ValueError: another architecture; entries that are missing, out of range or do not go together; a variant that
            is not computed here. Lists all faults.
    """
    dialect = _dialect(config)
    parts = sections(config)
    if found := list(faults(dialect, parts)):
        raise ValueError(
            f"config.json does not describe a {dialect.architecture} model of a kind known here:\n  "
            + "\n  ".join(found)
        )
    text = parts.text
    return Config(
        **{name: text[name] for name in TEXT_SIZES},
        vision=_tower(dialect, parts.vision),
        tie_word_embeddings=bool(config.get("tie_word_embeddings") or text.get("tie_word_embeddings")),
        mrope_section=tuple(parts.rope["mrope_section"]),
        rope_theta=float(text.get("rope_theta", Config.rope_theta)),
        rms_norm_eps=text["rms_norm_eps"],
        initializer_range=text.get("initializer_range", Config.initializer_range),
        **{name: config[name] for name in TOKEN_IDS if name in config},
    )


def to_hf(config: Config) -> dict[str, Any]:
    """The content of a `config.json`, in the layout of the published files; `from_hf` reads it back."""
    (model_type,) = [name for name, dialect in ARCHITECTURES.items() if dialect.tower is type(config.vision)]
    dialect = ARCHITECTURES[model_type]
    sizes = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in ("vision", "mrope_section")
    }
    fields = [field.name for field in dataclasses.fields(dialect.tower)]
    vision = {dialect.entry(field): getattr(config.vision, field) for field in fields}
    return sizes | {
        "architectures": [dialect.model_class],
        "model_type": model_type,
        "hidden_act": "silu",
        "rope_scaling": {"type": "mrope", "mrope_section": list(config.mrope_section)},
        "vision_config": vision | {"model_type": model_type, dialect.feature_dim: config.hidden_size},
    }


def _dialect(config: Mapping[str, Any]) -> Architecture:
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        known = " or ".join(repr(name) for name in ARCHITECTURES)
        raise ValueError(f"config.json describes no model known here: model_type: expected {known}, got {model_type!r}")
    return ARCHITECTURES[model_type]


def _tower(dialect: Architecture, vision: Mapping) -> TowerConfig:
    entries = {field.name: dialect.entry(field.name) for field in dataclasses.fields(dialect.tower)}
    values = {name: vision[entry] for name, entry in entries.items() if entry in vision}
    hashable: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return dialect.tower(**hashable)
