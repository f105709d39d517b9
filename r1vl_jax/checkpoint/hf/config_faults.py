"""What keeps a `config.json` from describing a model that is computed here, one line for each fault.

Every number is looked at alone first; those that are fine are then held against each other, so that no fault hides one
elsewhere and nothing is divided by what is no number.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from r1vl_jax.checkpoint.hf.architectures import TEXT_SIZES, TOKEN_IDS, Architecture, Sections

_VISION_THETA = 10_000.0
_FULL = "full_attention"
_ABSENT = object()  # null is not absent: it stands in the file

_Range = tuple[type, int]  # of a number: its type, and the least it may be
_TEXT_RANGES: dict[str, _Range] = dict.fromkeys(TEXT_SIZES, (int, 1)) | {"rms_norm_eps": (float, 0)}
_OPTIONAL_RANGES: dict[str, _Range] = dict.fromkeys(TOKEN_IDS, (int, 0)) | {
    "rope_theta": (float, 1),
    "initializer_range": (float, 0),
}


@dataclasses.dataclass(frozen=True)
class _Number:
    """An entry that should be a number of some range."""

    name: str
    value: Any
    range: _Range

    def is_fine(self) -> bool:
        kind, least = self.range
        is_number = isinstance(self.value, int if kind is int else int | float) and not isinstance(self.value, bool)
        return is_number and least <= self.value < math.inf

    def fault(self) -> str:
        kind, least = self.range
        expected = "an integer" if kind is int else "a number"
        got = "nothing" if self.value is _ABSENT else repr(self.value)
        return f"{self.name}: expected {expected} of at least {least}, got {got}"


def faults(dialect: Architecture, sections: Sections) -> Iterator[str]:
    """One line for each: where, what is expected, what stands there."""
    numbers = [*_text_numbers(sections), *_vision_numbers(dialect, sections.vision)]
    yield from sections.faults
    yield from (number.fault() for number in numbers if not number.is_fine())
    yield from _variants(dialect, sections)
    sizes = {number.name: number.value for number in numbers if number.is_fine()}
    yield from _undivided(dialect, sizes)
    yield from _faults_of_heads(sections, sizes)
    yield from _faults_of_vision(dialect, sections.vision, sizes)


def _text_numbers(sections: Sections) -> Iterator[_Number]:
    for name, bounds in _TEXT_RANGES.items():
        yield _Number(name, sections.text.get(name, _ABSENT), bounds)
    for name, bounds in _OPTIONAL_RANGES.items():
        if name in sections.text:
            yield _Number(name, sections.text[name], bounds)


def _vision_numbers(dialect: Architecture, vision: Mapping) -> Iterator[_Number]:
    """The tower's sizes, with their defaults; null stands for a size that the tower does without."""
    for field in dataclasses.fields(dialect.tower):
        entry, default = dialect.entry(field.name), field.default
        value = vision.get(entry, _ABSENT if default is dataclasses.MISSING else default)
        if not isinstance(default, tuple) and (value, default) != (None, None):
            yield _Number(f"vision_config.{entry}", value, (int, 1))
    yield _Number(f"vision_config.{dialect.feature_dim}", vision.get(dialect.feature_dim, _ABSENT), (int, 1))


def _variants(dialect: Architecture, sections: Sections) -> Iterator[str]:
    """Kinds of models that are not computed here."""
    text, vision, rope = sections.text, sections.vision, sections.rope
    vision_rope = vision.get("rope_parameters") or {}
    for name, got, expected in (
        ("rope type", rope.get("rope_type", rope.get("type", "default")), ("default", "mrope")),
        ("hidden_act", text.get("hidden_act", "silu"), ("silu",)),
        ("vision_config.hidden_act", vision.get("hidden_act", dialect.hidden_act), (dialect.hidden_act,)),
        ("use_sliding_window", text.get("use_sliding_window"), (False, None)),
        ("tie_word_embeddings", text.get("tie_word_embeddings"), (False, True, None)),
        ("vision_config.in_channels", vision.get("in_channels", 3), (3,)),
        ("vision_config.in_chans", vision.get("in_chans", 3), (3,)),  # as published files call them
        ("vision_config.rope_parameters.rope_theta", _theta(vision_rope), (_VISION_THETA,)),
    ):
        if got not in expected:
            yield f"{name}: expected {' or '.join(repr(e) for e in expected if e is not None)}, got {got!r}"
    layers = text.get("layer_types")
    if others := [kind for kind in layers if kind != _FULL] if isinstance(layers, list) else layers:
        yield f"layer_types: expected {_FULL!r} for every layer, got {others!r}"
    if (quantization := text.get("quantization_config")) is not None:
        yield f"quantization_config: expected none (take the weights before quantization), got {quantization!r}"


def _theta(vision_rope: Any) -> Any:
    return vision_rope.get("rope_theta", _VISION_THETA) if isinstance(vision_rope, dict) else vision_rope


def _undivided(dialect: Architecture, sizes: Mapping[str, int]) -> Iterator[str]:
    for name, divisor, factor in (
        ("hidden_size", "num_attention_heads", 1),
        ("num_attention_heads", "num_key_value_heads", 1),
        # Half a head turns with the row and half with the column, in planes of two.
        (f"vision_config.{dialect.entry('embed_dim')}", "vision_config.num_heads", 4),
    ):
        if {name, divisor} <= sizes.keys() and sizes[name] % (factor * sizes[divisor]):
            multiple = f"{factor} x {divisor}" if factor > 1 else divisor
            yield f"{name}: expected a multiple of {multiple} = {factor * sizes[divisor]}, got {sizes[name]}"


def _faults_of_heads(sections: Sections, sizes: Mapping[str, int]) -> Iterator[str]:
    width, num_heads = sizes.get("hidden_size"), sizes.get("num_attention_heads")
    head = width // num_heads if width and num_heads and width % num_heads == 0 else None
    if head and (stated := sections.text.get("head_dim")) not in (None, head):
        yield f"head_dim: expected hidden_size / num_attention_heads = {head}, got {stated!r}"
    planes = sections.rope.get("mrope_section", _ABSENT)
    if not _are_integers(planes) or len(planes) != 3 or head not in (None, 2 * sum(planes)):
        expected = f"three integers that sum to {head // 2}, half a head" if head else "three integers"
        yield f"mrope_section: expected {expected}, got {'nothing' if planes is _ABSENT else repr(planes)}"


def _faults_of_vision(dialect: Architecture, vision: Mapping, sizes: Mapping[str, int]) -> Iterator[str]:
    feature, width = sizes.get(f"vision_config.{dialect.feature_dim}"), sizes.get("hidden_size")
    if feature and width and feature != width:
        yield f"vision_config.{dialect.feature_dim}: expected {width}, hidden_size, got {feature}"
    names = [f"vision_config.{name}" for name in ("patch_size", "spatial_merge_size", "window_size")]
    if sizes.keys() >= {*names}:
        patch, merge, window = (sizes[name] for name in names)
        if window < patch * merge:
            yield f"{names[2]}: expected at least patch_size x spatial_merge_size = {patch * merge}, got {window}"
    if "fullatt_block_indexes" in vision and not _are_integers(blocks := vision["fullatt_block_indexes"]):
        yield f"vision_config.fullatt_block_indexes: expected a list of integers of at least 0, got {blocks!r}"


def _are_integers(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(_Number("", each, (int, 0)).is_fine() for each in value)
