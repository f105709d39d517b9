"""Building blocks of text decoder and vision tower: linear layers, norms, and stacks of equal layers to scan over.

A stack is a module like one of its layers, whose parameters have a leading axis L. `scan` applies it as one `lax.scan`,
so that a layer is compiled once, whatever the depth; with `scan_layers=False` the loop is unrolled. The sampler
unstacks the layers again (`sampling.weight_sync`).
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, DTypeLike, Float

Layer = TypeVar("Layer", bound=nnx.Module)

# Initial scale of the kernels that write to the residual stream (output and down projections), relative to the others:
# residual branches start small so that embeddings dominate at initialisation.
RESIDUAL_GAIN = 0.5

_LAYER_INPUT = "layer_input"
_CUDNN_ATTENTION = "dot_product_attention_fwd_wrapper"  # JAX's primitive that returns output and log-sum-exp


def _is_saveable_with_dots(primitive: Any, *operands: Any, **settings: Any) -> bool:
    """Policy of remat="dots": saves the outputs of linear layers, and of cuDNN's fused attention."""
    is_dot = jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *operands, **settings)
    return is_dot or primitive.name == _CUDNN_ATTENTION


# Setting `remat` -> policy: what of a layer's forward pass is saved for its backward pass; the rest is recomputed.
# "none" is not here: without `jax.checkpoint` everything is saved.
_REMAT_POLICIES = {
    "block": jax.checkpoint_policies.nothing_saveable,
    "dots": _is_saveable_with_dots,
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[_LAYER_INPUT],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


class Linear(nnx.Linear):
    """x @ kernel + bias, plus the LoRA adapter if there is one (`models.lora`).

    Leading axes of x are flattened to one, for speed: the gradient of the kernel contracts them, and XLA for CPU takes
    several times longer to contract two axes than one.

    Attributes:
        lora_a, lora_b: [in, r] and [r, out]; None without an adapter.
        lora_scale: factor alpha / r of their product.
    """

    lora_a: nnx.Param | None = None
    lora_b: nnx.Param | None = None
    lora_scale: float = 0.0

    def __call__(self, x: Float[Array, "*rows in"], out_sharding: None = None) -> Float[Array, "*rows out"]:
        x_RI = x.reshape(-1, x.shape[-1])
        y_RO = super().__call__(x_RI)
        if self.lora_a is not None and self.lora_b is not None:
            # (x A) B, never A B: the low-rank path costs two thin matmuls and no matrix of the kernel's size.
            low_rank = x_RI.astype(y_RO.dtype) @ self.lora_a.astype(y_RO.dtype)
            y_RO += self.lora_scale * (low_rank @ self.lora_b.astype(y_RO.dtype))
        return y_RO.reshape(*x.shape[:-1], -1)


def linear(dim_in: int, dim_out: int, *, use_bias: bool, dtype: DTypeLike, rngs: nnx.Rngs, gain: float = 1.0) -> Linear:
    """A linear layer computed in `dtype`, with float32 parameters.

    The kernel is initialised with variance gain**2 / dim_in. At the published widths this is close to Hugging Face's
    constant 0.02**2; at the widths of small models that constant would be too small for signals to propagate.
    """
    kernel_init = nnx.initializers.variance_scaling(gain**2, "fan_in", "normal")
    return Linear(dim_in, dim_out, use_bias=use_bias, dtype=dtype, kernel_init=kernel_init, rngs=rngs)


class RMSNorm(nnx.RMSNorm):
    """x / sqrt(mean(x^2) + epsilon) * scale, with all leading axes flattened to one.

    Flattened for speed: XLA for CPU reduces the last of three axes up to eight times as slowly as the last of two.
    """

    def __call__(self, x: Float[Array, "*rows D"], mask: None = None) -> Float[Array, "*rows D"]:
        return super().__call__(x.reshape(-1, x.shape[-1])).reshape(x.shape)


class LayerNorm(nnx.LayerNorm):
    """Layer normalisation with scale and bias, with all leading axes flattened to one, as in `RMSNorm`."""

    def __call__(self, x: Float[Array, "*rows D"], mask: None = None) -> Float[Array, "*rows D"]:
        return super().__call__(x.reshape(-1, x.shape[-1])).reshape(x.shape)


def stack(create: Callable[[nnx.Rngs], Layer], num_layers: int, rngs: nnx.Rngs) -> Layer:
    """Creates layers from different keys, as one module whose parameters have a leading axis L."""
    return nnx.vmap(create)(rngs.fork(split=num_layers))


class Scan(Protocol):
    """`scan` with `remat` and `is_unrolled` bound."""

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
    """Applies a stack of layers to x, one after another.

    Args:
        apply: (one layer, x, its slices of `per_layer`) -> (x, output to collect from this layer).
        per_layer: further inputs of each layer, on a leading axis L.
        remat: activation checkpointing. What the backward pass needs from inside a layer is saved ("none"), recomputed
            from the layer's input ("block"), or recomputed from the saved results of matmuls ("dots"); "offload" is
            "block" with the layers' inputs moved to host memory in between.
        is_unrolled: whether the program contains every layer, instead of one in a loop.

    Returns:
        x after the last layer, and the collected outputs with a leading axis L.
    """
    # `lax.scan` slices the stacked parameters; the body rebuilds one layer from its slice.
    graphdef, state = nnx.split(layers)

    def body(x: Array, slices: tuple[Any, ...]) -> tuple[Array, Any]:
        layer_state, *layer_inputs = slices
        # The name marks the layer's input for the "offload" policy; other policies ignore it.
        return apply(nnx.merge(graphdef, layer_state), checkpoint_name(x, _LAYER_INPUT), *layer_inputs)

    body = body if remat == "none" else jax.checkpoint(body, policy=_REMAT_POLICIES[remat])
    return jax.lax.scan(body, x, (state, *per_layer), unroll=is_unrolled)
