"""Sharding rules: the table of parameter path -> mesh axes. `sharding.mesh` describes the axes."""

import math
import re
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

# Regular expression on the end of a dotted path -> mesh axes of the last dimensions; the first match wins. Dimensions
# before those (the layers of a stack) are not sharded. As in Megatron, tensor shards the columns of a kernel that
# produces heads or MLP columns [D, F] and the rows of one that consumes them [F, D], so that a pair needs one
# all-reduce. It shards the rows of the patch embedding too, so that no two devices embed the same patches.
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
    """The sharding of every leaf of a tree whose paths end as those of parameters: parameters, gradients, moments.

    Scalars are replicated. A mesh axis that does not divide its dimension falls back to another dimension that the rule
    shards, if it divides that one; otherwise it is left out. `sharding_fallbacks` lists these leaves.

    Args:
        tree: arrays, or anything with a shape.

    Raises:
        ValueError: lists the paths that match no rule of `RULES`.
    """
    leaves, structure = _with_rules(tree)
    specs = [_spec(shape, rule, mesh) for _, shape, rule in leaves]
    return jax.tree.unflatten(structure, [NamedSharding(mesh, spec) for spec in specs])


def bytes_per_device(tree: Any, leaf_shardings: Any) -> int:
    """Bytes of a tree on one device, given a tree of the shardings of its leaves."""
    leaves = zip(jax.tree.leaves(tree), jax.tree.leaves(leaf_shardings), strict=True)
    return sum(math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, sharding in leaves)


def sharding_fallbacks(tree: Any, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> list[str]:
    """One sentence for each leaf that is not sharded by its rule, because an axis does not divide its dimension."""
    sentences = []
    for path, shape, rule in _with_rules(tree)[0]:
        by_rule = (*[None] * (len(shape) - len(rule)), *rule)
        if (actual := tuple(_spec(shape, rule, mesh))) != by_rule:
            sentences.append(f"{path} {list(shape)}: sharded as {actual}; the rule is {by_rule}")
    return sentences


_Rule = tuple[str | None, ...]


def _with_rules(tree: Any) -> tuple[list[tuple[str, tuple[int, ...], _Rule]], Any]:
    """Path, shape and rule of every leaf of a tree, and the tree's structure."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    paths = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    shapes = [leaf.shape for _, leaf in leaves]
    rules = [_rule(path, shape) for path, shape in zip(paths, shapes, strict=True)]
    if unmatched := [path for path, rule in zip(paths, rules, strict=True) if rule is None]:
        raise ValueError("r1vl_jax.sharding.rules.RULES has no rule for these; add one:\n  " + "\n  ".join(unmatched))
    return [
        (path, shape, rule) for path, shape, rule in zip(paths, shapes, rules, strict=True) if rule is not None
    ], structure


def _rule(path: str, shape: tuple[int, ...]) -> _Rule | None:
    """The mesh axes of the last dimensions; None if no rule matches, or if it has more axes than the array."""
    if not shape:
        return ()
    axes = next((axes for pattern, axes in RULES if re.search(rf"{pattern}$", path)), None)
    return None if axes is None or len(axes) > len(shape) else axes


def _spec(shape: tuple[int, ...], rule: _Rule, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> PartitionSpec:
    """The mesh axes of each dimension: those of the rule that divide it, then the others where they divide."""
    axes = (*[None] * (len(shape) - len(rule)), *rule)
    divides = [axis is not None and size % mesh.shape[axis] == 0 for size, axis in zip(shape, axes, strict=True)]
    assigned = [[axis] if fits else [] for axis, fits in zip(axes, divides, strict=True)]
    for axis in (axis for axis, fits in zip(axes, divides, strict=True) if axis and not fits):
        for size, by_rule, of_dim in zip(shape, axes, assigned, strict=True):
            if by_rule and size % math.prod(mesh.shape[each] for each in (*of_dim, axis)) == 0:
                of_dim.append(axis)
                break
    return PartitionSpec(*(tuple(names) if len(names) > 1 else names[0] if names else None for names in assigned))
