"""Where arrays live: the mesh of devices, and the table of parameter path -> mesh axes.

data     copies of the model, each with its own rows
fsdp     rows too, and parameters cut into pieces that are gathered for use
tensor   heads and MLP columns
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from r1vl_jax import config
from r1vl_jax.arrays import Array, Bundle, map_axes

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # rows are divided over these

# Regular expression on the end of a dotted path -> mesh axes of its last dimensions; the first match wins. Dimensions
# in front of them (the layers of a stack) are not divided. A kernel that makes heads or MLP columns [D, F] is divided
# by tensor in its columns, one that consumes them [F, D] in its rows, so that a pair of them communicates once.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"embed_tokens\.embedding", ("tensor", "fsdp")),
    (r"lm_head\.kernel", ("fsdp", "tensor")),
    (r"(q|k|v|gate|up)_proj\.kernel", ("fsdp", "tensor")),
    (r"(q|k|v|gate|up)_proj\.bias", ("tensor",)),
    (r"(o|down)_proj\.kernel", ("tensor", "fsdp")),
    (r"((q|k|v|gate|up)_proj|attn\.qkv|mlp\.fc1|merger\.mlp_0)\.lora_a", ("fsdp", None)),
    (r"((q|k|v|gate|up)_proj|attn\.qkv|mlp\.fc1|merger\.mlp_0)\.lora_b", (None, "tensor")),
    (r"((o|down)_proj|attn\.proj|mlp\.fc2|merger\.mlp_2)\.lora_a", ("tensor", None)),
    (r"((o|down)_proj|attn\.proj|mlp\.fc2|merger\.mlp_2)\.lora_b", (None, "fsdp")),
    (r"(attn\.qkv|mlp\.fc1|merger\.mlp_0)\.kernel", ("fsdp", "tensor")),
    (r"(attn\.qkv|mlp\.fc1|merger\.mlp_0)\.bias", ("tensor",)),
    (r"(attn\.proj|mlp\.fc2|merger\.mlp_2)\.kernel", ("tensor", "fsdp")),
    (r"(attn\.proj|mlp\.fc2|down_proj|merger\.mlp_2)\.bias", (None,)),
    (r"patch_embed\.proj\.kernel", (None, "fsdp")),
    (r"(norm|norm1|norm2|ln_q)\.(scale|bias)", (None,)),
)


def make_mesh(sizes: config.Mesh, devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
    """Lays devices out along (data, fsdp, tensor).

    Args:
        sizes: devices along each axis; one of them may be -1 and takes what the others leave.
        devices: `jax.Device`s, all there are by default; every one is used.

    Raises:
        ValueError: the sizes do not multiply to the number of devices; says which would.
    """
    devices = jax.devices() if devices is None else devices
    shape = _filled([sizes.data, sizes.fsdp, sizes.tensor], len(devices))
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def _filled(shape: list[int], num_devices: int) -> tuple[int, ...]:
    asked = " x ".join(f"mesh.{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
    if shape.count(-1) > 1 or any(size < 1 and size != -1 for size in shape):
        raise ValueError(
            f"{asked}: expected sizes of at least 1, one of which may be -1; set mesh.data=-1, the others 1"
        )
    fixed = math.prod(size for size in shape if size != -1)
    if num_devices % fixed or (-1 not in shape and fixed != num_devices):
        divisors = [size for size in range(1, num_devices + 1) if num_devices % size == 0]
        raise ValueError(
            f"{asked} does not use all {num_devices} devices: set mesh.data=-1 and mesh.fsdp and mesh.tensor to values"
            f" whose product is one of {divisors}"
        )
    return tuple(num_devices // fixed if size == -1 else size for size in shape)


def shardings(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """The sharding of every leaf of a tree whose paths end as those of parameters do: parameters, gradients, moments.

    A scalar is replicated. An axis that does not divide its dimension is left out: that dimension stays whole.

    Args:
        tree: arrays, or anything with a shape.

    Raises:
        ValueError: lists the paths that no rule of `RULES` places.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    paths = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    placed = [_spec(path, leaf.shape, mesh) for path, (_, leaf) in zip(paths, leaves, strict=True)]
    if unplaced := [path for path, spec in zip(paths, placed, strict=True) if spec is None]:
        raise ValueError("no rule of r1vl_jax.sharding.RULES places these; add one:\n  " + "\n  ".join(unplaced))
    return jax.tree.unflatten(structure, [NamedSharding(mesh, spec) for spec in placed if spec is not None])


def _spec(path: str, shape: tuple[int, ...], mesh: jax.sharding.Mesh) -> PartitionSpec | None:
    """The mesh axis of each dimension; None if no rule matches, or the one that does has more axes than the shape."""
    if not shape:
        return PartitionSpec()
    axes = next((axes for pattern, axes in RULES if re.search(rf"{pattern}$", path)), None)
    if axes is None or len(axes) > len(shape):
        return None
    last = [
        axis if axis and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(axes, shape[-len(axes) :], strict=True)
    ]
    return PartitionSpec(*[None] * (len(shape) - len(axes)), *last)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Every device holds all of it."""
    return NamedSharding(mesh, PartitionSpec())


def num_batch_shards(mesh: jax.sharding.Mesh) -> int:
    """Into how many parts the rows of a batch are divided."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def divide(bundle: Bundle, mesh: jax.sharding.Mesh) -> Bundle:
    """Places a batch: its prompts, its rows and the rows of its images are divided over (data, fsdp).

    What has none of these axes is on every device. A number of rows that does not divide so is an error of JAX's.
    """

    def place(array: Array, axes: list[str]) -> Array:
        spec = PartitionSpec(*(BATCH_AXES if axis in _DIVIDED else None for axis in axes))
        return jax.device_put(array, NamedSharding(mesh, spec))

    return map_axes(place, bundle)


_DIVIDED = ("P", "B", "Z")  # prompts, rows, shards of images; as in `arrays`
