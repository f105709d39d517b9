"""Reads the sizes of a model from the content of a `config.json`, in every layout in the wild, and writes them.

Text sizes stand at the top (2024 and 2025) or under `text_config`; the rope settings are called `rope_scaling` beside
`rope_theta`, or `rope_parameters`. The vision tower is described as its `model_type` does.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from r1vl_jax.models.qwen2_5_vl import config as qwen2_5_vl
from r1vl_jax.models.qwen2_vl import config as qwen2_vl
from r1vl_jax.models.qwen2_vl.config import Config, TowerConfig


@dataclasses.dataclass(frozen=True)
class _Dialect:
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

    def entry(self, field: dataclasses.Field) -> str:
        return self.renamed.get(field.name, field.name)


_DIALECTS = {
    "qwen2_vl": _Dialect(
        "Qwen2-VL", qwen2_vl.VisionConfig, {}, "hidden_size", "quick_gelu", "Qwen2VLForConditionalGeneration"
    ),
    "qwen2_5_vl": _Dialect(
        "Qwen2.5-VL",
        qwen2_5_vl.VisionConfig,
        {"embed_dim": "hidden_size"},
        "out_hidden_size",
        "silu",
        "Qwen2_5_VLForConditionalGeneration",
    ),
}

_TEXT_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
_TOKEN_IDS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
_VISION_THETA = 10_000.0


def from_hf(config: Mapping[str, Any]) -> Config:
    """Reads the content of a `config.json`.

    Raises:
        ValueError: another architecture, missing entries or a variant that is not computed here; lists all faults.
    """
    if (model_type := config.get("model_type")) not in _DIALECTS:
        known = " or ".join(repr(name) for name in _DIALECTS)
        raise ValueError(f"config.json describes no model known here: model_type: expected {known}, got {model_type!r}")
    dialect = _DIALECTS[model_type]
    text = {**config, **(config.get("text_config") or {})}
    vision = config.get("vision_config") or {}
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    missing = list(_missing(dialect, text, vision, rope))
    if faults := missing or list(_unsupported(dialect, text, vision, rope)):
        raise ValueError(
            f"config.json does not describe a {dialect.architecture} model of a kind known here:\n  "
            + "\n  ".join(faults)
        )
    return Config(
        **{name: text[name] for name in _TEXT_SIZES},
        vision=_tower(dialect, vision),
        tie_word_embeddings=bool(config.get("tie_word_embeddings") or text.get("tie_word_embeddings")),
        mrope_section=tuple(rope["mrope_section"]),
        rope_theta=float(rope.get("rope_theta", text.get("rope_theta", Config.rope_theta))),
        rms_norm_eps=text["rms_norm_eps"],
        initializer_range=text.get("initializer_range", Config.initializer_range),
        **{name: config[name] for name in _TOKEN_IDS if name in config},
    )


def to_hf(config: Config) -> dict[str, Any]:
    """The content of a `config.json`, in the layout of the published files; `from_hf` reads it back."""
    (model_type,) = [name for name, dialect in _DIALECTS.items() if dialect.tower is type(config.vision)]
    dialect = _DIALECTS[model_type]
    sizes = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in ("vision", "mrope_section")
    }
    vision = {dialect.entry(field): getattr(config.vision, field.name) for field in dataclasses.fields(dialect.tower)}
    return sizes | {
        "architectures": [dialect.model_class],
        "model_type": model_type,
        "hidden_act": "silu",
        "rope_scaling": {"type": "mrope", "mrope_section": list(config.mrope_section)},
        "vision_config": vision | {"model_type": model_type, dialect.feature_dim: config.hidden_size},
    }


def _tower(dialect: _Dialect, vision: Mapping) -> TowerConfig:
    entries = {field.name: dialect.entry(field) for field in dataclasses.fields(dialect.tower)}
    values = {name: vision[entry] for name, entry in entries.items() if entry in vision}
    hashable: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return dialect.tower(**hashable)


def _missing(dialect: _Dialect, text: Mapping, vision: Mapping, rope: Mapping) -> Iterator[str]:
    for name in (*_TEXT_SIZES, "rms_norm_eps"):
        if name not in text:
            yield f"{name}: expected a number, got nothing"
    needed = [dialect.entry(f) for f in dataclasses.fields(dialect.tower) if f.default is dataclasses.MISSING]
    for name in (*needed, dialect.feature_dim):
        if name not in vision:
            yield f"vision_config.{name}: expected a number, got nothing"
    if "mrope_section" not in rope:
        yield "rope_scaling.mrope_section: expected three numbers, got nothing"


def _unsupported(dialect: _Dialect, text: Mapping, vision: Mapping, rope: Mapping) -> Iterator[str]:
    vision_rope = vision.get("rope_parameters") or {}
    for name, got, expected in (
        ("rope type", rope.get("rope_type", rope.get("type", "default")), ("default", "mrope")),
        ("hidden_act", text.get("hidden_act", "silu"), ("silu",)),
        ("vision_config.hidden_act", vision.get("hidden_act", dialect.hidden_act), (dialect.hidden_act,)),
        ("use_sliding_window", text.get("use_sliding_window", False), (False, None)),
        (f"vision_config.{dialect.feature_dim}", vision[dialect.feature_dim], (text["hidden_size"],)),
        ("vision_config.rope_parameters.rope_theta", vision_rope.get("rope_theta", _VISION_THETA), (_VISION_THETA,)),
    ):
        if got not in expected:
            yield f"{name}: expected {expected[0]!r}, got {got!r}"
    sections, half_head = rope["mrope_section"], text["hidden_size"] // text["num_attention_heads"] // 2
    if len(sections) != 3 or sum(sections) != half_head:
        yield f"mrope_section: expected three numbers that sum to {half_head}, half a head, got {sections}"
