"""Weight sync from trainer to sampler: the decoder's parameters, cast, resharded and unstacked for decoding.

                 trainer                              sampler
    dtype        float32, or that of frozen ones      that of the computation
    mesh         (data, fsdp, tensor)                 (data, 1, tensor), the same devices in the same order
    sharding     over fsdp and tensor                 over tensor alone, no weight is gathered while decoding
    layers       stacked on a leading axis            unstacked, a list
    head         `lm_head`, or the tied embedding     the same; on a CPU always an `lm_head`

Layers are synced a group at a time, so that the sync needs memory for one group besides the sampler's parameters. On
one CPU device in float32 only the unstacking remains to be done: the sampler's arrays then alias the trainer's memory
instead of copying it. Copied are then only a tied head, which is transposed, and layers that start at an address that
is not aligned as JAX requires.

Prefill uses the trainer's parameters, so the vision tower is not synced. LoRA adapters are not merged: rounded to
bfloat16, a merged weight would lose an adapter that is small beside it, and log-probabilities of sampler and learner
would no longer agree.
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

SyncedParams = Callable[[], Params]  # returns the sampler's parameters


@contextlib.contextmanager
def synced_params(sampler: Sampler, params: Params) -> Iterator[SyncedParams]:
    """A function that returns the sampler's parameters, synced at its first call; freed when the block is left.

    At the first call, not on entry: by then the devices can be busy with the prefill of the first prompts.
    """
    synced = functools.cache(functools.partial(sampler_params, sampler, params))
    try:
        yield synced
    finally:
        # Deleted at once, not when garbage is collected: the next update needs the memory.
        for leaf in jax.tree.leaves(synced() if synced.cache_info().currsize else None):
            leaf.delete()


def sampler_params(sampler: Sampler, params: Params) -> Params:
    """The sampler's parameters, as copies or aliases of the trainer's.

    Args:
        params: parameters of the policy, as the trainer holds them.

    Returns:
        `embed_tokens`, `layers` (a list), `norm` and, unless the tied embedding serves as head, `lm_head`: the
        parameters of `Decoder`.
    """
    definition, mesh = sampler.definition, sampler.mesh
    if can_alias(definition, mesh, params):
        return _alias_params(definition, mesh, params)
    # One compiled program for all groups: the first layer's number is an argument.
    num_layers = definition.config.num_hidden_layers
    layers = []
    for start in range(0, num_layers, layers_per_group(num_layers)):
        layers += sync_layers(definition, mesh)(params["text"]["layers"], jnp.int32(start))
    return sync_non_layer_params(definition, mesh)(non_layer_params(params)) | {"layers": layers}


def can_alias(definition: Definition, mesh: jax.sharding.Mesh | None, params: Params) -> bool:
    """Whether synced parameters would be the same numbers on the same device, on a platform that can alias memory.

    Args:
        mesh: the sampler's.
        params: arrays on the definition's devices, or their shapes. Tracers, inside a jitted function, have no memory
            yet that could be aliased.
    """
    leaves = jax.tree.leaves([params["text"], params.get("lm_head")])
    # Float32 only: aliasing goes through NumPy, which has no bfloat16.
    return (
        definition.platform == "cpu"
        and (mesh is None or mesh.size == 1)
        and all(leaf.dtype == jnp.dtype(definition.dtype) == jnp.float32 for leaf in leaves)
        and not any(isinstance(leaf, Tracer) for leaf in leaves)
    )


def _alias_params(definition: Definition, mesh: jax.sharding.Mesh | None, params: Params) -> Params:
    """The sampler's parameters as views of the trainer's memory.

    An update that donates its parameters while a view is alive cannot reuse their memory and allocates a second set.
    JAX releases a deleted view only a moment later; in a run, rewards and log-probabilities come in between.
    """
    # DLPack hands over the buffers of JAX arrays without copying; NumPy can then view parts of them, which JAX cannot.
    views = jax.tree.map(np.from_dlpack, non_layer_params(params) | {"layers": params["text"]["layers"]})
    # Slices of a NumPy view are views again: layer i of a stack without a copy.
    layer_numbers = range(definition.config.num_hidden_layers)
    views["layers"] = [jax.tree.map(lambda leaf, i=i: leaf[i], views["layers"]) for i in layer_numbers]
    aliases = jax.device_put(views, _alias_shardings(definition, mesh), may_alias=True)
    return aliases | _sync_tied_head(definition, mesh)(params["text"]["embed_tokens"])


@functools.cache
def _alias_shardings(definition: Definition, mesh: jax.sharding.Mesh | None) -> Any:
    """`sampler_shardings` of `_alias_params`, cached: they are needed for every rollout."""
    params = definition.abstract_params()
    layer = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), params["text"]["layers"])
    return sampler_shardings(non_layer_params(params) | {"layers": [layer] * definition.config.num_hidden_layers}, mesh)


def non_layer_params(params: Params) -> Params:
    """The decoder's parameters outside its layers: embedding, final norm and head."""
    head = {"lm_head": params["lm_head"]} if "lm_head" in params else {}
    return {name: params["text"][name] for name in ("embed_tokens", "norm")} | head


def layers_per_group(num_layers: int) -> int:
    """The largest divisor of the number of layers up to `MAX_LAYERS_PER_GROUP`: all groups are of the same size."""
    return max(size for size in range(1, MAX_LAYERS_PER_GROUP + 1) if num_layers % size == 0)


@functools.cache
def sync_layers(definition: Definition, mesh: jax.sharding.Mesh | None) -> jax.stages.Wrapped:
    """The program (stacked layers, number of the first) -> a group of layers, cast, resharded and unstacked."""
    num_layers = layers_per_group(definition.config.num_hidden_layers)

    def sync_layers(stacked: Params, start: Int[Array, ""]) -> list[Params]:
        # Cast before the resharding that `out_shardings` implies, so that half the bytes are gathered.
        group = jax.tree.map(
            lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, num_layers).astype(definition.dtype), stacked
        )
        return [jax.tree.map(lambda leaf, i=i: leaf[i], group) for i in range(num_layers)]

    stacked = definition.abstract_params()["text"]["layers"]
    layers = jax.eval_shape(sync_layers, stacked, jax.ShapeDtypeStruct((), jnp.int32))
    return jax.jit(sync_layers, out_shardings=sampler_shardings(layers, mesh))


@functools.cache
def sync_non_layer_params(definition: Definition, mesh: jax.sharding.Mesh | None) -> jax.stages.Wrapped:
    """The program `non_layer_params` -> the same, cast and resharded.

    On a CPU a tied embedding is also returned transposed, as `lm_head`: few rows are multiplied faster with [D, V].
    """

    def sync_non_layer_params(params: Params) -> Params:
        # `jnp.array` copies even where the dtype is right: the results are deleted after sampling, the inputs are not.
        synced = jax.tree.map(lambda leaf: jnp.array(leaf, definition.dtype), params)
        return synced | _tied_head(definition, synced["embed_tokens"])

    abstract = jax.eval_shape(sync_non_layer_params, non_layer_params(definition.abstract_params()))
    return jax.jit(sync_non_layer_params, out_shardings=sampler_shardings(abstract, mesh))


@functools.cache
def _sync_tied_head(definition: Definition, mesh: jax.sharding.Mesh | None) -> jax.stages.Wrapped:
    """The program embedding -> `lm_head`, or nothing, as `_tied_head`."""
    tied_head = functools.partial(_tied_head, definition)
    head = jax.eval_shape(tied_head, definition.abstract_params()["text"]["embed_tokens"])
    return jax.jit(tied_head, out_shardings=sampler_shardings(head, mesh))


def _tied_head(definition: Definition, embed_tokens: Params) -> Params:
    """A tied embedding as an `lm_head` on a CPU; elsewhere the decoder transposes the embedding itself."""
    if definition.config.tie_word_embeddings and definition.platform == "cpu":
        return {"lm_head": {"kernel": embed_tokens["embedding"].T}}
    return {}


def sampler_shardings(params: Any, mesh: jax.sharding.Mesh | None) -> Any:
    """The trainer's sharding rules without fsdp: sharded over "tensor" alone, and replicated over the rest."""
    if mesh is None:
        return None
    return jax.tree.map(
        lambda sharding: NamedSharding(
            mesh, PartitionSpec(*(None if axis == "fsdp" else axis for axis in sharding.spec))
        ),
        shardings(params, mesh),
    )
