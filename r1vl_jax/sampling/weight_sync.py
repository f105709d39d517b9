"""From trainer to sampler: a copy of the decoder's parameters in the form in which decoding reads them.

                 trainer                              copy
    dtype        float32, or as frozen                that of the computation
    mesh         (data, fsdp, tensor)                 (data, 1, tensor), the same devices in the same order
    layers       stacked on a leading axis            one by one, in a list
    head         `lm_head`, or the embedding          the same; on a CPU always `lm_head`

A few layers are copied at a time: beside the copy only they are in memory. Where nothing changes but the list, on one
CPU device in float32, the arrays are views of the trainer's memory. Copied are then a head that is turned, and what
does not begin where JAX wants an array to.

Vision tower and prompts are read with the trainer's parameters and are not part of it. Adapters stay beside their
matrices: in bfloat16 a sum of both would lose an adapter that is small beside its matrix, and with it the agreement of
sampler and scorer.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from r1vl_jax.arrays import Params
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.sharding.rules import shardings

MAX_LAYERS_PER_GROUP = 4

SyncedParams = Callable[[], Params]  # gives what `sync` made


@contextlib.contextmanager
def synced_params(sampler: Sampler, params: Params) -> Iterator[SyncedParams]:
    """Gives the copy of `sync` whenever it is called, the same one; its memory is given back when the block is left.

    It is made when it is first asked for: by then a device may read the first prompts.
    """
    copy = functools.cache(functools.partial(sampler_params, sampler, params))
    try:
        yield copy
    finally:
        for leaf in jax.tree.leaves(copy() if copy.cache_info().currsize else None):
            leaf.delete()


def sampler_params(sampler: Sampler, params: Params) -> Params:
    """Copies the decoder of a policy.

    Args:
        params: parameters of the policy, as the trainer holds them.

    Returns:
        `embed_tokens`, `layers` (a list), `norm` and `lm_head`, unless that is the embedding as it lies: see `Decoder`.
    """
    definition, mesh = sampler.definition, sampler.mesh
    if can_alias(definition, mesh, params):
        return _aliases(definition, mesh, params)
    num_layers = definition.config.num_hidden_layers
    layers = []
    for start in range(0, num_layers, layers_per_group(num_layers)):
        layers += sync_layers(definition, mesh)(params["text"]["layers"], jnp.int32(start))
    return sync_non_layer_params(definition, mesh)(non_layer_params(params)) | {"layers": layers}


def can_alias(definition: Definition, mesh: jax.sharding.Mesh | None, params: Params) -> bool:
    """Whether a copy would have the same numbers on the same device, where arrays can share memory.

    Args:
        mesh: the sampler's.
        params: arrays on the devices of the definition, or their shapes. Of what a program computes on the way nothing
            can be viewed.
    """
    leaves = jax.tree.leaves([params["text"], params.get("lm_head")])
    # Float32, for numpy, through which arrays are viewed, has no bfloat16.
    return (
        definition.platform == "cpu"
        and (mesh is None or mesh.size == 1)
        and all(leaf.dtype == jnp.dtype(definition.dtype) == jnp.float32 for leaf in leaves)
        and not any(isinstance(leaf, Tracer) for leaf in leaves)
    )


def _aliases(definition: Definition, mesh: jax.sharding.Mesh | None, params: Params) -> Params:
    """What a copy would be, over the trainer's memory.

    An update that finds a view alive writes elsewhere, and needs memory for a second set of parameters. JAX lets go of
    a view a moment after it was deleted; a run scores completions before it updates.
    """
    viewed = jax.tree.map(np.from_dlpack, non_layer_params(params) | {"layers": params["text"]["layers"]})
    numbers = range(definition.config.num_hidden_layers)
    viewed["layers"] = [jax.tree.map(lambda leaf, i=i: leaf[i], viewed["layers"]) for i in numbers]
    views = jax.device_put(viewed, _alias_shardings(definition, mesh), may_alias=True)
    return views | _head(definition, mesh)(params["text"]["embed_tokens"])


@functools.cache
def _alias_shardings(definition: Definition, mesh: jax.sharding.Mesh | None) -> Any:
    """Where views lie: `copy_placements`, which are not made again for every draw."""
    params = definition.abstract_params()
    layer = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), params["text"]["layers"])
    return sampler_shardings(non_layer_params(params) | {"layers": [layer] * definition.config.num_hidden_layers}, mesh)


def non_layer_params(params: Params) -> Params:
    """What stands before and behind the layers: the argument of `copy_ends`."""
    head = {"lm_head": params["lm_head"]} if "lm_head" in params else {}
    return {name: params["text"][name] for name in ("embed_tokens", "norm")} | head


def layers_per_group(num_layers: int) -> int:
    """The most layers, up to `LAYERS_AT_ONCE`, of which a whole number of groups can be made."""
    return max(size for size in range(1, MAX_LAYERS_PER_GROUP + 1) if num_layers % size == 0)


@functools.cache
def sync_layers(definition: Definition, mesh: jax.sharding.Mesh | None) -> jax.stages.Wrapped:
    """The program (stacked layers, number of the first) -> that layer and those after it, cast and then placed."""
    num_layers = layers_per_group(definition.config.num_hidden_layers)

    def copy_layers(stacked: Params, start: Int[Array, ""]) -> list[Params]:
        group = jax.tree.map(
            lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, num_layers).astype(definition.dtype), stacked
        )
        return [jax.tree.map(lambda leaf, i=i: leaf[i], group) for i in range(num_layers)]

    stacked = definition.abstract_params()["text"]["layers"]
    layers = jax.eval_shape(copy_layers, stacked, jax.ShapeDtypeStruct((), jnp.int32))
    return jax.jit(copy_layers, out_shardings=sampler_shardings(layers, mesh))


@functools.cache
def sync_non_layer_params(definition: Definition, mesh: jax.sharding.Mesh | None) -> jax.stages.Wrapped:
    """The program `ends` -> the same, cast and then placed; always new arrays, which can be deleted.

    On a CPU an embedding that is the head, too, lies both ways: few rows are multiplied faster with [D, V].
    """

    def copy_ends(ends: Params) -> Params:
        copy = jax.tree.map(lambda leaf: jnp.array(leaf, definition.dtype), ends)
        return copy | _separate_head(definition, copy["embed_tokens"])

    copied = jax.eval_shape(copy_ends, non_layer_params(definition.abstract_params()))
    return jax.jit(copy_ends, out_shardings=sampler_shardings(copied, mesh))


@functools.cache
def _head(definition: Definition, mesh: jax.sharding.Mesh | None) -> jax.stages.Wrapped:
    """The program embedding -> the head, where that lies apart from it; nothing else."""
    head_apart = functools.partial(_separate_head, definition)
    head = jax.eval_shape(head_apart, definition.abstract_params()["text"]["embed_tokens"])
    return jax.jit(head_apart, out_shardings=sampler_shardings(head, mesh))


def _separate_head(definition: Definition, embed_tokens: Params) -> Params:
    if definition.config.tie_word_embeddings and definition.platform == "cpu":
        return {"lm_head": {"kernel": embed_tokens["embedding"].T}}
    return {}


def sampler_shardings(params: Any, mesh: jax.sharding.Mesh | None) -> Any:
    """As the table of `sharding` says, but every device has the whole of what it would divide over fsdp."""
    if mesh is None:
        return None
    return jax.tree.map(
        lambda placed: NamedSharding(mesh, PartitionSpec(*(None if axis == "fsdp" else axis for axis in placed.spec))),
        shardings(params, mesh),
    )
