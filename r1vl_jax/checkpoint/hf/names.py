"""The name and layout of each parameter in a Hugging Face checkpoint: one table, for loading and for export.

Qwen2-VL and Qwen2.5-VL use the same names for the parameters that they share, so one table serves both.

Published files name tensors `model.layers...` and `visual...`; later versions of transformers write
`model.language_model.layers...` and `model.visual...`. The table has the published names, and `published_name` maps the
later ones to them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jax import Array

from r1vl_jax.models.qwen2_vl.config import Config

# Parameter path (a regular expression) -> published name; `{layer}` is the index on a stacked parameter's first axis.
_TABLE = (
    (r"text\.embed_tokens\.embedding", r"model.embed_tokens.weight"),
    (r"text\.layers\.(\w+_layernorm)\.scale", r"model.layers.{layer}.\1.weight"),
    (r"text\.layers\.(self_attn\.\w+|mlp\.\w+)\.kernel", r"model.layers.{layer}.\1.weight"),
    (r"text\.layers\.(self_attn\.\w+)\.bias", r"model.layers.{layer}.\1.bias"),
    (r"text\.norm\.scale", r"model.norm.weight"),
    (r"lm_head\.kernel", r"lm_head.weight"),
    (r"visual\.patch_embed\.proj\.kernel", r"visual.patch_embed.proj.weight"),
    (r"visual\.blocks\.(norm\d)\.scale", r"visual.blocks.{layer}.\1.weight"),
    (r"visual\.blocks\.(attn\.\w+|mlp\.\w+)\.kernel", r"visual.blocks.{layer}.\1.weight"),
    (r"visual\.blocks\.(norm\d|attn\.\w+|mlp\.\w+)\.bias", r"visual.blocks.{layer}.\1.bias"),
    (r"visual\.merger\.ln_q\.scale", r"visual.merger.ln_q.weight"),
    (r"visual\.merger\.mlp_(\d)\.kernel", r"visual.merger.mlp.\1.weight"),
    (r"visual\.merger\.ln_q\.bias", r"visual.merger.ln_q.bias"),
    (r"visual\.merger\.mlp_(\d)\.bias", r"visual.merger.mlp.\1.bias"),
)

_LATER_PREFIXES = {"model.language_model.": "model.", "model.visual.": "visual."}


@dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint, which holds a parameter or one layer of a stacked parameter.

    Attributes:
        name: published name.
        shape: of the tensor.
        layer: index on the parameter's leading axis; None if the tensor is the whole parameter.
        is_transposed: the tensor is [out, ...in] and the parameter [in, out], as for linear maps and the patch
            convolution.
    """

    name: str
    shape: tuple[int, ...]
    layer: int | None
    is_transposed: bool

    def from_parameter(self, parameter: np.ndarray) -> np.ndarray:
        """The tensor's values, from those of the parameter (or of its layer)."""
        return parameter.T.reshape(self.shape) if self.is_transposed else parameter


def to_parameter(tensor: Array, *, is_transposed: bool) -> Array:
    """A tensor's values in the layout of the parameter (or of its layer)."""
    return tensor.reshape(tensor.shape[0], -1).T if is_transposed else tensor


def tensors_of(path: str, shape: tuple[int, ...], config: Config) -> Iterator[Tensor]:
    """The tensors that hold one parameter, layer by layer if it is stacked.

    Args:
        path: of the parameter, as `text.layers.mlp.up_proj.kernel`.
        shape: of the parameter.
    """
    name = _published_template(path)
    is_transposed = path.endswith(".kernel")
    is_stacked = "{layer}" in name
    layer_shape = shape[1:] if is_stacked else shape
    if path == "visual.patch_embed.proj.kernel":
        tensor_shape = _patch_shape(config)
    else:
        tensor_shape = layer_shape[::-1] if is_transposed else layer_shape
    for layer in range(shape[0]) if is_stacked else [None]:
        yield Tensor(name.format(layer=layer), tensor_shape, layer, is_transposed)


def published_name(name: str) -> str:
    """The published name of a tensor, from a published or a later name."""
    for later, published in _LATER_PREFIXES.items():
        if name.startswith(later):
            return published + name.removeprefix(later)
    return name


def later_name(name: str) -> str:
    """The name in later versions of transformers, from the published name."""
    for later, published in _LATER_PREFIXES.items():
        if name.startswith(published):
            return later + name.removeprefix(published)
    return name


def _published_template(path: str) -> str:
    templates = [match.expand(name) for pattern, name in _TABLE if (match := re.fullmatch(pattern, path))]
    assert len(templates) == 1, f"parameter {path} must match one row of the table, matches {templates}"
    return templates[0]


def _patch_shape(config: Config) -> tuple[int, ...]:
    vision = config.vision
    return (
        vision.embed_dim,
        vision.in_channels,
        vision.temporal_patch_size,
        vision.patch_size,
        vision.patch_size,
    )
