"""Sizes of Qwen2-VL models, with Hugging Face's names: presets, and the reading of a `config.json`."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Sizes of the vision tower and of the merger behind it.

    Attributes:
        depth: number of blocks.
        embed_dim: width E.
        num_heads: attention heads; each is embed_dim / num_heads wide.
        mlp_ratio: MLP width over E.
        patch_size: side of a patch, in pixels.
        temporal_patch_size: frames a patch spans.
        spatial_merge_size: side, in patches, of the square that becomes one feature.
    """

    depth: int
    embed_dim: int
    num_heads: int
    mlp_ratio: int = 4
    patch_size: int = 14
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    in_channels: int = 3

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads

    @property
    def patch_dim(self) -> int:
        """Values C of a patch: (channel, frame, row, column) flattened."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def merge_length(self) -> int:
        """Patches that become one feature."""
        return self.spatial_merge_size**2


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and constants of a whole model.

    Attributes:
        initializer_range: standard deviation of fresh embeddings; matters only without weights.
        mrope_section: how many of the H/2 rope frequencies turn with time, height and width.
        image_token_id, video_token_id, vision_start_token_id, vision_end_token_id: never sampled; they mark images.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vision: VisionConfig
    tie_word_embeddings: bool
    mrope_section: tuple[int, int, int]
    rope_theta: float = 1_000_000.0
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    image_token_id: int = 151655
    video_token_id: int = 151656
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


_PUBLISHED_VISION = VisionConfig(depth=32, embed_dim=1280, num_heads=16)

# Published sizes: Wang et al., Qwen2-VL, 2024, https://arxiv.org/abs/2409.12191, and the config.json files beside the
# weights. "tiny" is ours, for the embedded task; its vocabulary and token ids give way to the tokenizer's.
PRESETS: dict[str, Config] = {
    "tiny": Config(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vision=VisionConfig(depth=1, embed_dim=96, num_heads=4),
        tie_word_embeddings=True,
        mrope_section=(4, 6, 6),
        rope_theta=4.0,  # width turns with the slowest planes; at larger values neighbours in a row look alike
        initializer_range=0.5,  # large embeddings are told apart, and copied, from the first steps on
    ),
    "2b": Config(
        vocab_size=151_936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        vision=_PUBLISHED_VISION,
        tie_word_embeddings=True,
        mrope_section=(16, 24, 24),
    ),
    "7b": Config(
        vocab_size=152_064,
        hidden_size=3584,
        intermediate_size=18_944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        vision=_PUBLISHED_VISION,
        tie_word_embeddings=False,
        mrope_section=(16, 24, 24),
    ),
    "72b": Config(
        vocab_size=152_064,
        hidden_size=8192,
        intermediate_size=29_568,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        vision=_PUBLISHED_VISION,
        tie_word_embeddings=False,
        mrope_section=(16, 24, 24),
    ),
}


def from_hf(config: Mapping[str, Any]) -> Config:
    """Reads the content of a `config.json`.

    Args:
        config: either layout in the wild, text sizes at the top (2024) or under `text_config`, and either spelling of
            the rope settings, `rope_scaling` beside `rope_theta` or `rope_parameters`.

    Raises:
        ValueError: another architecture, missing entries or a variant that is not computed here; lists all faults.
    """
    text = {**config, **(config.get("text_config") or {})}
    vision = config.get("vision_config") or {}
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    if faults := list(_faults(config, text, vision, rope)):
        raise ValueError(
            "config.json does not describe a Qwen2-VL model of a kind known here:\n  " + "\n  ".join(faults)
        )
    return Config(
        **{name: text[name] for name in _TEXT_SIZES},
        vision=VisionConfig(
            **{name: vision[name] for name in _VISION_SIZES},
            **{name: vision[name] for name in _VISION_DEFAULTS if name in vision},
        ),
        tie_word_embeddings=bool(config.get("tie_word_embeddings") or text.get("tie_word_embeddings")),
        mrope_section=tuple(rope["mrope_section"]),
        rope_theta=float(rope.get("rope_theta", text.get("rope_theta", Config.rope_theta))),
        rms_norm_eps=text["rms_norm_eps"],
        initializer_range=text.get("initializer_range", Config.initializer_range),
        **{name: config[name] for name in _TOKEN_IDS if name in config},
    )


_TEXT_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
_VISION_SIZES = ("depth", "embed_dim", "num_heads")
_VISION_DEFAULTS = ("mlp_ratio", "patch_size", "temporal_patch_size", "spatial_merge_size", "in_channels")
_TOKEN_IDS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


def _faults(config: Mapping, text: Mapping, vision: Mapping, rope: Mapping) -> Iterator[str]:
    if config.get("model_type") != "qwen2_vl":
        yield f"model_type: expected 'qwen2_vl', got {config.get('model_type')!r}"
    elif missing := list(_missing(text, vision, rope)):
        yield from missing
    else:
        yield from _unsupported(text, vision, rope)


def _missing(text: Mapping, vision: Mapping, rope: Mapping) -> Iterator[str]:
    for name in (*_TEXT_SIZES, "rms_norm_eps"):
        if name not in text:
            yield f"{name}: expected a number, got nothing"
    for name in (*_VISION_SIZES, "hidden_size"):
        if name not in vision:
            yield f"vision_config.{name}: expected a number, got nothing"
    if "mrope_section" not in rope:
        yield "rope_scaling.mrope_section: expected three numbers, got nothing"


def _unsupported(text: Mapping, vision: Mapping, rope: Mapping) -> Iterator[str]:
    for name, got, expected in (
        ("rope type", rope.get("rope_type", rope.get("type", "default")), ("default", "mrope")),
        ("hidden_act", text.get("hidden_act", "silu"), ("silu",)),
        ("vision_config.hidden_act", vision.get("hidden_act", "quick_gelu"), ("quick_gelu",)),
        ("use_sliding_window", text.get("use_sliding_window", False), (False, None)),
        ("vision_config.hidden_size", vision["hidden_size"], (text["hidden_size"],)),
    ):
        if got not in expected:
            yield f"{name}: expected {expected[0]!r}, got {got!r}"
    sections, half_head = rope["mrope_section"], text["hidden_size"] // text["num_attention_heads"] // 2
    if len(sections) != 3 or sum(sections) != half_head:
        yield f"mrope_section: expected three numbers that sum to {half_head}, half a head, got {sections}"
