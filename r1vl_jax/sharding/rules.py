"""Where arrays live: the mesh of devices, and the table of parameter path -> mesh axes.

data     copies of the model, each with its own rows
fsdp     rows too, and parameters cut into pieces that are gathered for use
tensor   heads and MLP columns
"""

import math
import re
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

# Regular expression on the end of a dotted path -> mesh axes of its last dimensions; the first match wins. Dimensions
# in front of them (the layers of a stack) are not divided. A kernel that makes heads or MLP columns [D, F] is divided
# by tensor in its columns, one that consumes them [F, D] in its rows, so that a pair of them communicates once. The
# patches' kernel is divided in its rows, too, so that no two devices embed the same patches.
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
    (r"patch_embed\.proj\.kernel", ("tensor", "fsdp")),
    (r"(norm|norm1|norm2|ln_q)\.(scale|bias)", (None,)),
)


def shardings(tree: Any, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> Any:
    """The sharding of every leaf of a tree whose paths end as those of parameters do: parameters, gradients, moments.

    A scalar is replicated. An axis that does not divide its dimension divides another one that has an axis, if it can;
    otherwise it is left out. `departures` lists where.

    Args:
        tree: arrays, or anything with a shape.

    Raises:
        ValueError: lists the paths that no rule of `RULES` places.
    """
    leaves, structure = _ruled(tree)
    specs = [_spec(shape, rule, mesh) for _, shape, rule in leaves]
    return jax.tree.unflatten(structure, [NamedSharding(mesh, spec) for spec in specs])


def bytes_per_device(tree: Any, placements: Any) -> int:
    """What one device holds of a tree whose leaves lie as a tree of shardings says."""
    leaves = zip(jax.tree.leaves(tree), jax.tree.leaves(placements), strict=True)
    return sum(math.prod(placed.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, placed in leaves)


def sharding_fallbacks(tree: Any, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> list[str]:
    """One sentence for each leaf that does not lie as its rule says, because an axis does not divide its dimension."""
    sentences = []
    for path, shape, rule in _ruled(tree)[0]:
        wanted = (*[None] * (len(shape) - len(rule)), *rule)
        if (placed := tuple(_spec(shape, rule, mesh))) != wanted:
            sentences.append(f"{path} {list(shape)}: lies as {placed}, its rule being {wanted}")
    return sentences


_Rule = tuple[str | None, ...]


def _ruled(tree: Any) -> tuple[list[tuple[str, tuple[int, ...], _Rule]], Any]:
    """Path, shape and rule of every leaf of a tree, and the tree's structure."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    paths = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    shapes = [leaf.shape for _, leaf in leaves]
    rules = [_rule(path, shape) for path, shape in zip(paths, shapes, strict=True)]
    if unplaced := [path for path, rule in zip(paths, rules, strict=True) if rule is None]:
        raise ValueError("no rule of r1vl_jax.sharding.rules.RULES places these; add one:\n  " + "\n  ".join(unplaced))
    return [
        (path, shape, rule) for path, shape, rule in zip(paths, shapes, rules, strict=True) if rule is not None
    ], structure


def _rule(path: str, shape: tuple[int, ...]) -> _Rule | None:
    """The mesh axes of the last dimensions; None if no rule matches, or the one that does has more axes than those."""
    if not shape:
        return ()
    axes = next((axes for pattern, axes in RULES if re.search(rf"{pattern}$", path)), None)
    return None if axes is None or len(axes) > len(shape) else axes


def _spec(shape: tuple[int, ...], rule: _Rule, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> PartitionSpec:
    """The mesh axes of each dimension: the rule's own where they divide it, then the others wherever they divide."""
    axes = (*[None] * (len(shape) - len(rule)), *rule)
    divides = [axis is not None and size % mesh.shape[axis] == 0 for size, axis in zip(shape, axes, strict=True)]
    placed = [[axis] if fits else [] for axis, fits in zip(axes, divides, strict=True)]
    for axis in (axis for axis, fits in zip(axes, divides, strict=True) if axis and not fits):
        for size, own, there in zip(shape, axes, placed, strict=True):
            if own and size % math.prod(mesh.shape[each] for each in (*there, axis)) == 0:
                there.append(axis)
                break
    return PartitionSpec(*(tuple(there) if len(there) > 1 else there[0] if there else None for there in placed))
