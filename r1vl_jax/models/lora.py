"""LoRA: the matrices of a model stay as they are, and each of some gets a product of two thin ones added to it.

    y = x W + b + (alpha / r) (x A) B          A [in, r], B [r, out]

B starts at zero, so a fresh adapter changes nothing. The base is the same parameters without A and B, bound to
`Definition.base`.

Source: Hu et al., LoRA, 2021, https://arxiv.org/abs/2106.09685; names and initial values as in the library PEFT.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float

from r1vl_jax.arrays import Params

# The head is used as a matrix, not as a map; PEFT's adapter of a convolution has a form of its own.
_WITHOUT_ADAPTER = ("lm_head", "visual.patch_embed.proj")


@dataclass(frozen=True)
class LoRA:
    """Which linear maps have an adapter, and how strong it is.

    Attributes:
        r: rank, the width between A and B.
        alpha: alpha / r multiplies what the adapter adds.
        target_modules: last parts of the dotted paths of linear maps: "q_proj", "attn.proj", or a whole path.
    """

    r: int
    alpha: float
    target_modules: tuple[str, ...]

    @property
    def scale(self) -> float:
        return self.alpha / self.r


def linear_maps(params: Params) -> list[str]:
    """Dotted paths of the linear maps that can have an adapter; a stack of layers has one path."""
    paths = [path.removesuffix(".kernel") for path in flatten_dict(params, sep=".") if path.endswith(".kernel")]
    return [path for path in paths if path not in _WITHOUT_ADAPTER]


def targeted(paths: list[str], names: tuple[str, ...]) -> list[str]:
    """The paths of linear maps that end with one of the names.

    Raises:
        ValueError: lists every name that no path ends with, and the last parts of those there are.
    """
    if absent := [name for name in names if not any(_ends_with(path, name) for path in paths)]:
        known = sorted({path.rsplit(".", 1)[-1] for path in paths})
        raise ValueError(
            f"lora_target_modules: no linear map that can have an adapter is called {', '.join(absent)}; choose among"
            f" {', '.join(known)}"
        )
    return [path for path in paths if any(_ends_with(path, name) for name in names)]


def _ends_with(path: str, name: str) -> bool:
    return f".{path}".endswith(f".{name}")


def is_adapter(path: str) -> bool:
    """Whether a parameter's dotted path is that of an A or a B."""
    return path.endswith((".lora_a", ".lora_b"))


def add_adapters(model: nnx.Module, lora: LoRA, rngs: nnx.Rngs) -> None:
    """Gives each targeted linear map of a model an adapter: A uniform in +-1/sqrt(in), B zero, both float32.

    Raises:
        ValueError: lists the targets that are no linear map of the model, and which there are.
    """
    paths = linear_maps(nnx.to_pure_dict(nnx.state(model)))
    for path in targeted(paths, lora.target_modules):
        linear: Any = functools.reduce(getattr, path.split("."), model)
        *layers, dim_in, dim_out = linear.kernel.shape
        bound = dim_in**-0.5
        key = rngs.params()
        linear.lora_a = nnx.Param(jax.random.uniform(key, (*layers, dim_in, lora.r), minval=-bound, maxval=bound))
        linear.lora_b = nnx.Param(jnp.zeros((*layers, lora.r, dim_out)))
        linear.lora_scale = lora.scale


def fold(
    kernel: Float[Array, "*L in out"], a: Float[Array, "*L in r"], b: Float[Array, "*L r out"], scale: float
) -> Float[Array, "*L in out"]:
    """A matrix with its adapter added, W + (alpha / r) A B, in float32."""
    product = jnp.matmul(a, b, precision="highest", preferred_element_type=jnp.float32)
    return kernel.astype(jnp.float32) + scale * product
