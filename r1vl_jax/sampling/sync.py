"""From trainer to sampler: a copy of the decoder's parameters in the form in which decoding reads them.

                 trainer                              copy
    dtype        float32, or as frozen                that of the computation
    mesh         (data, fsdp, tensor)                 (data, 1, tensor), the same devices in the same order
    layers       stacked on a leading axis            one by one, in a list

A few layers are copied at a time: beside the copy only they are in memory. Vision tower and prompts are read with the
trainer's parameters and are not part of it. Adapters stay beside their matrices: in bfloat16 a sum of both would lose
an adapter that is small beside its matrix, and with it the agreement of sampler and scorer.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Int

from r1vl_jax.arrays import Params
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.sharding import shardings

LAYERS_AT_ONCE = 4


@contextlib.contextmanager
def copied(sampler: Sampler, params: Params) -> Iterator[Params]:
    """The copy of `sync`, whose memory is given back when the block is left."""
    copy = sync(sampler, params)
    try:
        yield copy
    finally:
        for leaf in jax.tree.leaves(copy):
            leaf.delete()


def sync(sampler: Sampler, params: Params) -> Params:
    """Copies the decoder of a policy.

    Args:
        params: parameters of the policy, as the trainer holds them.

    Returns:
        `embed_tokens`, `layers` (a list), `norm` and, where it is not the embedding, `lm_head`: see `Decoder`.
    """
    text, how = params["text"], {"dtype": sampler.definition.dtype, "mesh": sampler.mesh}
    num_layers = sampler.definition.config.num_hidden_layers
    size = layers_at_once(num_layers)
    layers = [
        layer
        for start in range(0, num_layers, size)
        for layer in copy_layers(text["layers"], jnp.int32(start), num_layers=size, **how)
    ]
    ends = {name: text[name] for name in ("embed_tokens", "norm")}
    ends |= {name: params[name] for name in ("lm_head",) if name in params}
    return copy_ends(ends, **how) | {"layers": layers}


def layers_at_once(num_layers: int) -> int:
    """The most layers, up to `LAYERS_AT_ONCE`, of which a whole number of groups can be made."""
    return max(size for size in range(1, LAYERS_AT_ONCE + 1) if num_layers % size == 0)


@partial(jax.jit, static_argnames=("num_layers", "dtype", "mesh"))
def copy_layers(
    stacked: Params, start: Int[Array, ""], *, num_layers: int, dtype: DTypeLike, mesh: jax.sharding.Mesh | None
) -> list[Params]:
    """Layers `start` to `start + num_layers` of a stack, one by one, cast and then placed."""
    group = jax.tree.map(
        lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, num_layers, axis=0).astype(dtype), stacked
    )
    return [_placed(jax.tree.map(lambda leaf, i=i: leaf[i], group), mesh) for i in range(num_layers)]


@partial(jax.jit, static_argnames=("dtype", "mesh"))
def copy_ends(ends: Params, *, dtype: DTypeLike, mesh: jax.sharding.Mesh | None) -> Params:
    """What stands before and behind the layers, cast and then placed; always new arrays, which can be deleted."""
    return _placed(jax.tree.map(lambda leaf: jnp.array(leaf, dtype), ends), mesh)


def _placed(params: Params, mesh: jax.sharding.Mesh | None) -> Any:
    return params if mesh is None else jax.lax.with_sharding_constraint(params, shardings(params, mesh))
