"""Validates a `config.json`: lists every entry that this implementation cannot use, one line each.

Each number is checked by itself first; relations are then checked between valid numbers only, so that one fault neither
hides another nor raises an exception.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from r1vl_jax.checkpoint.hf.architectures import TEXT_SIZES, TOKEN_IDS, Architecture, Sections
from r1vl_jax.data.images import MERGE_SIZE, PATCH_SIZE, TEMPORAL_PATCH_SIZE

_VISION_ROPE_THETA = 10_000.0
_PATCHES = {"patch_size": PATCH_SIZE, "temporal_patch_size": TEMPORAL_PATCH_SIZE, "spatial_merge_size": MERGE_SIZE}
_FULL_ATTENTION = "full_attention"
_ABSENT = object()  # null is an entry, and not the same as an absent one

_Range = tuple[type, int]  # of a number: its type and its minimum
_TEXT_RANGES: dict[str, _Range] = dict.fromkeys(TEXT_SIZES, (int, 1)) | {"rms_norm_eps": (float, 0)}
_OPTIONAL_RANGES: dict[str, _Range] = dict.fromkeys(TOKEN_IDS, (int, 0)) | {
    "rope_theta": (float, 1),
    "initializer_range": (float, 0),
}


@dataclasses.dataclass(frozen=True)
class _Number:
    """An entry that must be a number in a range."""

    name: str
    value: Any
    range: _Range

    def is_valid(self) -> bool:
        kind, minimum = self.range
        is_number = isinstance(self.value, int if kind is int else int | float) and not isinstance(self.value, bool)
        return is_number and minimum <= self.value < math.inf

    def fault(self) -> str:
        kind, minimum = self.range
        expected = "an integer" if kind is int else "a number"
        got = "nothing" if self.value is _ABSENT else repr(self.value)
        return f"{self.name}: expected {expected} of at least {minimum}, got {got}"


def find_faults(architecture: Architecture, sections: Sections) -> Iterator[str]:
    """One line for each fault: the entry, what is expected, and what was found."""
    numbers = [*_text_numbers(sections), *_vision_numbers(architecture, sections.vision)]
    yield from sections.faults
    yield from (number.fault() for number in numbers if not number.is_valid())
    yield from _unsupported_variants(architecture, sections)
    sizes = {number.name: number.value for number in numbers if number.is_valid()}
    yield from _divisibility_faults(architecture, sizes)
    yield from _attention_faults(sections, sizes)
    yield from _vision_faults(architecture, sections.vision, sizes)


def _text_numbers(sections: Sections) -> Iterator[_Number]:
    for name, bounds in _TEXT_RANGES.items():
        yield _Number(name, sections.text.get(name, _ABSENT), bounds)
    for name, bounds in _OPTIONAL_RANGES.items():
        if name in sections.text and not (name in TOKEN_IDS and sections.text[name] is None):
            yield _Number(name, sections.text[name], bounds)


def _vision_numbers(architecture: Architecture, vision: Mapping) -> Iterator[_Number]:
    """The sizes of the vision tower, with their defaults; null is valid where the default is None."""
    for field in dataclasses.fields(architecture.vision_class):
        entry, default = architecture.entry_name(field.name), field.default
        value = vision.get(entry, _ABSENT if default is dataclasses.MISSING else default)
        if not isinstance(default, tuple) and (value, default) != (None, None):
            yield _Number(f"vision_config.{entry}", value, (int, 1))
    feature_size = architecture.feature_size_entry
    yield _Number(f"vision_config.{feature_size}", vision.get(feature_size, _ABSENT), (int, 1))


def _unsupported_variants(architecture: Architecture, sections: Sections) -> Iterator[str]:
    """Variants of the model that are not implemented."""
    text, vision, rope = sections.text, sections.vision, sections.rope
    vision_rope = vision.get("rope_parameters") or {}
    for name, got, expected in (
        ("rope type", rope.get("rope_type") or rope.get("type"), ("default", "mrope")),
        ("hidden_act", text.get("hidden_act"), ("silu",)),
        ("vision_config.hidden_act", vision.get("hidden_act"), (architecture.hidden_act,)),
        ("use_sliding_window", text.get("use_sliding_window"), (False,)),
        ("tie_word_embeddings", text.get("tie_word_embeddings"), (False, True)),
        ("vision_config.in_channels", vision.get("in_channels"), (3,)),
        ("vision_config.in_chans", vision.get("in_chans"), (3,)),  # the name in published files
        ("vision_config.rope_parameters.rope_theta", _rope_theta(vision_rope), (_VISION_ROPE_THETA,)),
    ):
        if got is not None and got not in expected:  # absent and null: as expected
            yield f"{name}: expected {' or '.join(map(repr, expected))}, got {got!r}"
    layer_types = text.get("layer_types")
    others = [each for each in layer_types if each != _FULL_ATTENTION] if isinstance(layer_types, list) else layer_types
    if others:
        yield f"layer_types: expected {_FULL_ATTENTION!r} for every layer, got {others!r}"
    if (quantization := text.get("quantization_config")) is not None:
        yield f"quantization_config: expected none (take the weights before quantization), got {quantization!r}"


def _rope_theta(vision_rope: Any) -> Any:
    return vision_rope.get("rope_theta") if isinstance(vision_rope, dict) else vision_rope


def _divisibility_faults(architecture: Architecture, sizes: Mapping[str, int]) -> Iterator[str]:
    for name, divisor, factor in (
        ("hidden_size", "num_attention_heads", 1),
        ("num_attention_heads", "num_key_value_heads", 1),
        # Vision RoPE rotates half of a head by row and half by column, in pairs of dimensions.
        (f"vision_config.{architecture.entry_name('embed_dim')}", "vision_config.num_heads", 4),
    ):
        if {name, divisor} <= sizes.keys() and sizes[name] % (factor * sizes[divisor]):
            multiple = f"{factor} x {divisor}" if factor > 1 else divisor
            yield f"{name}: expected a multiple of {multiple} = {factor * sizes[divisor]}, got {sizes[name]}"


def _attention_faults(sections: Sections, sizes: Mapping[str, int]) -> Iterator[str]:
    hidden_size, num_heads = sizes.get("hidden_size"), sizes.get("num_attention_heads")
    head_dim = hidden_size // num_heads if hidden_size and num_heads and hidden_size % num_heads == 0 else None
    if head_dim and (stated := sections.text.get("head_dim")) not in (None, head_dim):
        yield f"head_dim: expected hidden_size / num_attention_heads = {head_dim}, got {stated!r}"
    section = sections.rope.get("mrope_section", _ABSENT)
    if not _are_integers(section) or len(section) != 3 or head_dim not in (None, 2 * sum(section)):
        expected = f"three integers that sum to {head_dim // 2}, half a head" if head_dim else "three integers"
        yield f"mrope_section: expected {expected}, got {'nothing' if section is _ABSENT else repr(section)}"


def _vision_faults(architecture: Architecture, vision: Mapping, sizes: Mapping[str, int]) -> Iterator[str]:
    entry = f"vision_config.{architecture.feature_size_entry}"
    feature_size, hidden_size = sizes.get(entry), sizes.get("hidden_size")
    if feature_size and hidden_size and feature_size != hidden_size:
        yield f"{entry}: expected {hidden_size}, hidden_size, got {feature_size}"
    for name, supported in _PATCHES.items():
        if (got := sizes.get(f"vision_config.{name}", supported)) != supported:
            yield f"vision_config.{name}: expected {supported}, the only one supported, got {got}"
    names = [f"vision_config.{name}" for name in ("patch_size", "spatial_merge_size", "window_size")]
    if sizes.keys() >= {*names}:
        patch, merge, window = (sizes[name] for name in names)
        if window < patch * merge:
            yield f"{names[2]}: expected at least patch_size x spatial_merge_size = {patch * merge}, got {window}"
    if "fullatt_block_indexes" in vision and not _are_integers(blocks := vision["fullatt_block_indexes"]):
        yield f"vision_config.fullatt_block_indexes: expected a list of integers of at least 0, got {blocks!r}"


def _are_integers(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(_Number("", each, (int, 0)).is_valid() for each in value)
