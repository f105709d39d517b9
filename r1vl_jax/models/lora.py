"""LoRA: the weights of a model are frozen, and the targeted linear layers get a trained low-rank update.

    y = x W + b + (alpha / r) (x A) B          A [in, r], B [r, out]

B is initialised to zero, so a new adapter changes nothing. The base model is the same parameters without A and B, bound
to `Definition.base`.

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

# The head's kernel is used as a matrix (`Qwen2VL.head`) and never called as a layer. The patch embedding is a
# convolution in checkpoints, for which PEFT's adapters have another form.
_WITHOUT_ADAPTER = ("lm_head", "visual.patch_embed.proj")


@dataclass(frozen=True)
class LoRA:
    """Rank, scale and target modules of an adapter, under PEFT's names.

    Attributes:
        r: rank of the update A B.
        alpha: the update is scaled by alpha / r.
        target_modules: suffixes of the dotted paths of linear layers: "q_proj", "attn.proj", or a whole path.
    """

    r: int
    alpha: float
    target_modules: tuple[str, ...]

    @property
    def scale(self) -> float:
        return self.alpha / self.r


def linear_module_paths(params: Params) -> list[str]:
    """Dotted paths of the linear layers that can have an adapter; a stack of layers has one path."""
    paths = [path.removesuffix(".kernel") for path in flatten_dict(params, sep=".") if path.endswith(".kernel")]
    return [path for path in paths if path not in _WITHOUT_ADAPTER]


def match_target_modules(paths: list[str], names: tuple[str, ...]) -> list[str]:
    """The paths that end with one of the target modules' names.

    Raises:
        ValueError: lists every name that matches no path, and the names that would.
    """
    if absent := [name for name in names if not any(_ends_with(path, name) for path in paths)]:
        known = sorted({path.rsplit(".", 1)[-1] for path in paths})
        raise ValueError(
            f"lora_target_modules: no linear layer that can have an adapter is called {', '.join(absent)}; choose among"
            f" {', '.join(known)}"
        )
    return [path for path in paths if any(_ends_with(path, name) for name in names)]


def _ends_with(path: str, name: str) -> bool:
    return f".{path}".endswith(f".{name}")


def is_adapter(path: str) -> bool:
    """Whether a parameter's dotted path is that of an A or a B."""
    return path.endswith((".lora_a", ".lora_b"))


def add_adapters(model: nnx.Module, lora: LoRA, rngs: nnx.Rngs) -> None:
    """Adds an adapter to each targeted linear layer: A random, B zero, both float32.

    Raises:
        ValueError: lists the target modules that the model does not have, and those it has.
    """
    paths = linear_module_paths(nnx.to_pure_dict(nnx.state(model)))
    for path in match_target_modules(paths, lora.target_modules):
        linear: Any = functools.reduce(getattr, path.split("."), model)
        *layers, dim_in, dim_out = linear.kernel.shape
        # PEFT's kaiming_uniform_(a=sqrt(5)) is uniform in +-1/sqrt(in). A stack of layers has a leading axis L.
        bound = dim_in**-0.5
        key = rngs.params()
        linear.lora_a = nnx.Param(jax.random.uniform(key, (*layers, dim_in, lora.r), minval=-bound, maxval=bound))
        linear.lora_b = nnx.Param(jnp.zeros((*layers, lora.r, dim_out)))
        linear.lora_scale = lora.scale


def merge_adapter(
    kernel: Float[Array, "*L in out"], a: Float[Array, "*L in r"], b: Float[Array, "*L r out"], scale: float
) -> Float[Array, "*L in out"]:
    """The merged weight W + (alpha / r) A B, in float32."""
    # In full float32: an export is merged once, and a TPU's default would multiply in bfloat16.
    product = jnp.matmul(a, b, precision="highest", preferred_element_type=jnp.float32)
    return kernel.astype(jnp.float32) + scale * product
