"""Where each parameter stands in a Hugging Face checkpoint: one table, for reading and for writing.

Qwen2-VL and Qwen2.5-VL name alike what they have in common, so the table serves both.

Published files name tensors `model.layers...` and `visual...`; later versions of transformers write
`model.language_model.layers...` and `model.visual...`. The table holds the published names, `published_name` brings the
others to them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jax import Array

from r1vl_jax.models.qwen2_vl.config import Config

# parameter path (a regular expression) -> published name; `{layer}` stands for each layer of a stack, \1 for group 1.
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
    """One tensor of a checkpoint and the parameter, or layer of a stacked parameter, that it holds.

    Attributes:
        name: published name.
        shape: of the tensor.
        layer: index on the parameter's leading axis; None if the tensor is the whole parameter.
        is_transposed: whether the tensor is [out, ...in], as matrices and the patch convolution are, and the parameter
            [in, out].
    """

    name: str
    shape: tuple[int, ...]
    layer: int | None
    is_transposed: bool

    def from_parameter(self, parameter: np.ndarray) -> np.ndarray:
        """The tensor, from the parameter (or from its one layer)."""
        return parameter.T.reshape(self.shape) if self.is_transposed else parameter


def to_parameter(tensor: Array, *, is_transposed: bool) -> Array:
    """A tensor in the layout of the parameter, or of one layer of it."""
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
    shape_of_layer = shape[1:] if is_stacked else shape
    if path == "visual.patch_embed.proj.kernel":
        tensor_shape = _patch_shape(config)
    else:
        tensor_shape = shape_of_layer[::-1] if is_transposed else shape_of_layer
    for layer in range(shape[0]) if is_stacked else [None]:
        yield Tensor(name.format(layer=layer), tensor_shape, layer, is_transposed)


def published_name(name: str) -> str:
    """The published name of a tensor, from either layout."""
    for later, published in _LATER_PREFIXES.items():
        if name.startswith(later):
            return published + name.removeprefix(later)
    return name


def later_name(name: str) -> str:
    """The name that later versions of transformers give to a tensor with this published name."""
    for later, published in _LATER_PREFIXES.items():
        if name.startswith(published):
            return later + name.removeprefix(published)
    return name


def _published_template(path: str) -> str:
    templates = [match.expand(name) for pattern, name in _TABLE if (match := re.fullmatch(pattern, path))]
    assert len(templates) == 1, f"parameter {path} must fit one line of the table, fits {len(templates)}: {templates}"
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
