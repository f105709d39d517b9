"""What the text and the vision tower share: linear maps, and layers that are alike stacked on a leading axis L.

A stack is a module like its layers, with every parameter's first axis counting them. It compiles as one layer, whatever
the depth: `scan` walks through it. Decoding takes the layers apart instead (`unstack`).
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from flax import nnx
from jaxtyping import Array, DTypeLike

Layer = TypeVar("Layer", bound=nnx.Module)

# Hugging Face's `initializer_range`: the standard deviation of every matrix of a fresh model.
NORMAL = nnx.initializers.normal(0.02)


def linear(dim_in: int, dim_out: int, *, use_bias: bool, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Linear:
    """A linear map computed in `dtype`, with float32 parameters as all are."""
    return nnx.Linear(dim_in, dim_out, use_bias=use_bias, dtype=dtype, kernel_init=NORMAL, rngs=rngs)


def stack(create: Callable[[nnx.Rngs], Layer], num_layers: int, rngs: nnx.Rngs) -> Layer:
    """Creates layers from different keys, as one module whose parameters have a leading axis L."""
    return nnx.vmap(create)(rngs.fork(split=num_layers))


def scan(
    layers: Layer, apply: Callable[[Layer, Array], tuple[Array, Any]], x: Array, *, remat: str
) -> tuple[Array, Any]:
    """Sends x through a stack, layer by layer.

    Args:
        apply: (one layer, x) -> (x, what to keep of this layer).
        remat: "block" computes the inside of every layer again in the backward pass, "none" keeps it in memory.

    Returns:
        x behind the last layer, and what was kept, with a leading axis L.
    """
    graphdef, state = nnx.split(layers)

    def body(x: Array, state_of_layer: nnx.State) -> tuple[Array, Any]:
        return apply(nnx.merge(graphdef, state_of_layer), x)

    return jax.lax.scan(jax.checkpoint(body) if remat == "block" else body, x, state)


def unstack(layers: Layer, num_layers: int, dtype: DTypeLike) -> list[Layer]:
    """The layers of a stack one by one, parameters cast to the dtype they are used in."""
    graphdef, state = nnx.split(layers)
    return [
        nnx.merge(graphdef, jax.tree.map(lambda leaf, i=i: leaf[i].astype(dtype), state)) for i in range(num_layers)
    ]
