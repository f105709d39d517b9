"""What the text and the vision tower share: linear maps, and layers that are alike stacked on a leading axis L.

A stack is a module like its layers, with every parameter's first axis counting them. It compiles as one layer, whatever
the depth: `scan` walks through it. Decoding takes the layers apart instead (`unstack`).
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

Layer = TypeVar("Layer", bound=nnx.Module)

# Fresh kernels that add to the residual stream are smaller by this, so that embeddings are heard above them.
RESIDUAL_GAIN = 0.5


class Linear(nnx.Linear):
    """x @ kernel + bias, with all leading axes of x flattened to one.

    The gradient of the kernel contracts these axes; XLA's CPU code takes several times longer to contract two than one.
    """

    def __call__(self, x: Float[Array, "*rows in"], out_sharding: None = None) -> Float[Array, "*rows out"]:
        return super().__call__(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def linear(dim_in: int, dim_out: int, *, use_bias: bool, dtype: DTypeLike, rngs: nnx.Rngs, gain: float = 1.0) -> Linear:
    """A linear map computed in `dtype`, with float32 parameters.

    A fresh kernel has variance gain**2 / dim_in: at the published widths about Hugging Face's constant 0.02**2, and at
    small ones large enough to let signals through.
    """
    kernel_init = nnx.initializers.variance_scaling(gain**2, "fan_in", "normal")
    return Linear(dim_in, dim_out, use_bias=use_bias, dtype=dtype, kernel_init=kernel_init, rngs=rngs)


def stack(create: Callable[[nnx.Rngs], Layer], num_layers: int, rngs: nnx.Rngs) -> Layer:
    """Creates layers from different keys, as one module whose parameters have a leading axis L."""
    return nnx.vmap(create)(rngs.fork(split=num_layers))


def scan(
    layers: nnx.Module, apply: Callable[..., tuple[Array, Any]], x: Array, *per_layer: Array, remat: str
) -> tuple[Array, Any]:
    """Sends x through a stack, layer by layer.

    Args:
        apply: (one layer, x, its part of `per_layer`) -> (x, what to keep of this layer).
        per_layer: what else each layer needs, on a leading axis L.
        remat: "block" computes the inside of every layer again in the backward pass, "none" keeps it in memory.

    Returns:
        x behind the last layer, and what was kept, with a leading axis L.
    """
    graphdef, state = nnx.split(layers)

    def body(x: Array, of_layer: tuple[Any, ...]) -> tuple[Array, Any]:
        state_of_layer, *own = of_layer
        return apply(nnx.merge(graphdef, state_of_layer), x, *own)

    return jax.lax.scan(jax.checkpoint(body) if remat == "block" else body, x, (state, *per_layer))


def unstack(layers: Layer, num_layers: int, dtype: DTypeLike) -> list[Layer]:
    """The layers of a stack one by one, parameters cast to the dtype they are used in."""
    graphdef, state = nnx.split(layers)
    return [
        nnx.merge(graphdef, jax.tree.map(lambda leaf, i=i: leaf[i].astype(dtype), state)) for i in range(num_layers)
    ]
