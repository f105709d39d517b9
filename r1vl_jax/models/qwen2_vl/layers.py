"""What the text and the vision tower share: linear maps, and layers that are alike stacked on a leading axis L.

A stack is a module like its layers, with every parameter's first axis counting them. `scan` walks through it, so that
it compiles as one layer, whatever the depth, unless it is unrolled. Decoding takes the layers apart instead
(`sampling.sync`).
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, DTypeLike, Float

Layer = TypeVar("Layer", bound=nnx.Module)

# Fresh kernels that add to the residual stream are smaller by this, so that embeddings are heard above them.
RESIDUAL_GAIN = 0.5

_LAYER_INPUT = "layer_input"
_CUDNN_ATTENTION = "dot_product_attention_fwd_wrapper"  # as JAX names the kernel that gives result and log-sum-exp


def _is_product(primitive: Any, *operands: Any, **settings: Any) -> bool:
    """Whether what a primitive computes is the result of a linear map, or of a kernel of attention."""
    is_dot = jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *operands, **settings)
    return is_dot or primitive.name == _CUDNN_ATTENTION


# remat -> what the backward pass finds in memory; the rest of a layer it computes again. "none" keeps all.
_KEPT = {
    "block": jax.checkpoint_policies.nothing_saveable,
    "dots": _is_product,
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[_LAYER_INPUT],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


class Linear(nnx.Linear):
    """x @ kernel + bias, and what an adapter of `models.lora` adds to it, with all leading axes of x flattened to one.

    The gradient of the kernel contracts these axes; XLA's CPU code takes several times longer to contract two than one.

    Attributes:
        lora_a, lora_b: [in, r] and [r, out]; None without an adapter.
        lora_scale: what their product is multiplied with.
    """

    lora_a: nnx.Param | None = None
    lora_b: nnx.Param | None = None
    lora_scale: float = 0.0

    def __call__(self, x: Float[Array, "*rows in"], out_sharding: None = None) -> Float[Array, "*rows out"]:
        x_RI = x.reshape(-1, x.shape[-1])
        y_RO = super().__call__(x_RI)
        if self.lora_a is not None and self.lora_b is not None:
            low_rank = x_RI.astype(y_RO.dtype) @ self.lora_a.astype(y_RO.dtype)
            y_RO += self.lora_scale * (low_rank @ self.lora_b.astype(y_RO.dtype))
        return y_RO.reshape(*x.shape[:-1], -1)


def linear(dim_in: int, dim_out: int, *, use_bias: bool, dtype: DTypeLike, rngs: nnx.Rngs, gain: float = 1.0) -> Linear:
    """A linear map computed in `dtype`, with float32 parameters.

    A fresh kernel has variance gain**2 / dim_in: at the published widths about Hugging Face's constant 0.02**2, and at
    small ones large enough to let signals through.
    """
    kernel_init = nnx.initializers.variance_scaling(gain**2, "fan_in", "normal")
    return Linear(dim_in, dim_out, use_bias=use_bias, dtype=dtype, kernel_init=kernel_init, rngs=rngs)


class RMSNorm(nnx.RMSNorm):
    """x divided by its root mean square, with all leading axes flattened to one.

    XLA's CPU code sums over the last of three axes up to eight times as slowly as over the last of two.
    """

    def __call__(self, x: Float[Array, "*rows D"], mask: None = None) -> Float[Array, "*rows D"]:
        return super().__call__(x.reshape(-1, x.shape[-1])).reshape(x.shape)


class LayerNorm(nnx.LayerNorm):
    """The same of x less its mean."""

    def __call__(self, x: Float[Array, "*rows D"], mask: None = None) -> Float[Array, "*rows D"]:
        return super().__call__(x.reshape(-1, x.shape[-1])).reshape(x.shape)


def stack(create: Callable[[nnx.Rngs], Layer], num_layers: int, rngs: nnx.Rngs) -> Layer:
    """Creates layers from different keys, as one module whose parameters have a leading axis L."""
    return nnx.vmap(create)(rngs.fork(split=num_layers))


class Scan(Protocol):
    """`scan` with its settings."""

    def __call__(
        self, layers: nnx.Module, apply: Callable[..., tuple[Array, Any]], x: Array, *per_layer: Array
    ) -> tuple[Array, Any]: ...


def scan(
    layers: nnx.Module,
    apply: Callable[..., tuple[Array, Any]],
    x: Array,
    *per_layer: Array,
    remat: str,
    is_unrolled: bool,
) -> tuple[Array, Any]:
    """Sends x through a stack, layer by layer.

    Args:
        apply: (one layer, x, its part of `per_layer`) -> (x, what to keep of this layer).
        per_layer: what else each layer needs, on a leading axis L.
        remat: what the backward pass needs of a layer's inside is kept in memory ("none"), computed again from the
            layer's input ("block"), or from the results of matrix products ("dots"); with "offload" the layers' inputs
            wait in the host's memory, too.
        is_unrolled: whether layers stand in the program one after another, and not as one in a loop.

    Returns:
        x behind the last layer, and what was kept, with a leading axis L.
    """
    graphdef, state = nnx.split(layers)

    def body(x: Array, of_layer: tuple[Any, ...]) -> tuple[Array, Any]:
        state_of_layer, *own = of_layer
        return apply(nnx.merge(graphdef, state_of_layer), checkpoint_name(x, _LAYER_INPUT), *own)

    body = body if remat == "none" else jax.checkpoint(body, policy=_KEPT[remat])
    return jax.lax.scan(body, x, (state, *per_layer), unroll=is_unrolled)
