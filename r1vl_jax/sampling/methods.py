"""How the next token is drawn, as objects: `Greedy()`, or `Temperature(1.2, filters=(TopK(50), TopP(0.9)))`.

A filter takes logits that are already divided by the temperature and sets what may not be drawn to minus infinity.
"""

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_BLOCK = 128  # tokens


class Method(Protocol):
    """Draws one token a row, by two random numbers in [0, 1).

    Implementations are hashable, so that a method is a static argument of `jax.jit`.
    """

    def __call__(self, logits_BV: Float[Array, "B V"], uniform_B2: Float[Array, "B 2"]) -> Int[Array, " B"]: ...


class Filter(Protocol):
    def __call__(self, logits_BV: Float[Array, "B V"]) -> Float[Array, "B V"]: ...


@dataclass(frozen=True)
class Greedy:
    """The likeliest token; the random numbers are not used."""

    def __call__(self, logits_BV: Float[Array, "B V"], uniform_B2: Float[Array, "B 2"]) -> Int[Array, " B"]:
        return jnp.argmax(logits_BV, axis=-1)


@dataclass(frozen=True)
class Temperature:
    """A draw from softmax(logits / temperature), after the filters in their order."""

    temperature: float = 1.0
    filters: tuple[Filter, ...] = ()

    def __call__(self, logits_BV: Float[Array, "B V"], uniform_B2: Float[Array, "B 2"]) -> Int[Array, " B"]:
        logits_BV = logits_BV / self.temperature
        for keep in self.filters:
            logits_BV = keep(logits_BV)
        return _drawn(jnp.exp(logits_BV - jnp.max(logits_BV, axis=-1, keepdims=True)), uniform_B2)


@dataclass(frozen=True)
class TopK:
    """Keeps the k likeliest tokens, and those that tie with the last of them."""

    k: int

    def __call__(self, logits_BV: Float[Array, "B V"]) -> Float[Array, "B V"]:
        smallest_B1 = jax.lax.top_k(logits_BV, min(self.k, logits_BV.shape[-1]))[0][:, -1:]
        return _drop(logits_BV, logits_BV < smallest_B1)


@dataclass(frozen=True)
class TopP:
    """Keeps the fewest likeliest tokens whose probabilities together reach p, and those that tie with the last of them.

    Source: Holtzman et al., The Curious Case of Neural Text Degeneration, 2019, https://arxiv.org/abs/1904.09751.
    """

    p: float

    def __call__(self, logits_BV: Float[Array, "B V"]) -> Float[Array, "B V"]:
        if self.p >= 1.0:  # float32 sums reach 1 early and would cut the tail
            return logits_BV
        probability_BV = jax.nn.softmax(logits_BV)
        descending_BV = -jnp.sort(-probability_BV)
        mass_before_BV = jnp.cumsum(descending_BV, axis=-1) - descending_BV
        smallest_B1 = jnp.min(jnp.where(mass_before_BV < self.p, descending_BV, 1.0), axis=-1, keepdims=True)
        return _drop(logits_BV, probability_BV < smallest_B1)


@dataclass(frozen=True)
class MinP:
    """Keeps tokens at least p times as likely as the likeliest one.

    Source: Nguyen et al., Turning Up the Heat: Min-p Sampling, 2024, https://arxiv.org/abs/2407.01082.
    """

    p: float

    def __call__(self, logits_BV: Float[Array, "B V"]) -> Float[Array, "B V"]:
        probability_BV = jax.nn.softmax(logits_BV)
        return _drop(logits_BV, probability_BV < self.p * jnp.max(probability_BV, axis=-1, keepdims=True))


def from_settings(*, temperature: float, top_k: int, top_p: float, min_p: float) -> Temperature:
    """The method that the configuration describes; top_k = 0, top_p = 1 and min_p = 0 filter nothing."""
    filters: tuple[Filter, ...] = ()
    if top_k > 0:
        filters += (TopK(top_k),)
    if top_p < 1:
        filters += (TopP(top_p),)
    if min_p > 0:
        filters += (MinP(min_p),)
    return Temperature(temperature, filters)


def _drawn(weight_BV: Float[Array, "B V"], uniform_B2: Float[Array, "B 2"]) -> Int[Array, " B"]:
    """A token a row: the first random number draws a block of the vocabulary, the second a token of it.

    A number for every token, as `jax.random.categorical` makes them, takes longer than to multiply with the head.

    Args:
        weight_BV: probabilities, up to a factor of each row.
    """
    size = weight_BV.shape[1]
    padded_BV = jnp.pad(weight_BV, ((0, 0), (0, -size % _BLOCK)))
    block_BNC = padded_BV.reshape(len(weight_BV), -1, _BLOCK)
    number_B = _first_beyond(jnp.sum(block_BNC, axis=-1), uniform_B2[:, 0])
    block_BC = jnp.take_along_axis(block_BNC, number_B[:, None, None], axis=1)[:, 0]
    return number_B * _BLOCK + _first_beyond(block_BC, uniform_B2[:, 1])


def _first_beyond(weight_BN: Float[Array, "B N"], uniform_B: Float[Array, " B"]) -> Int[Array, " B"]:
    """Of each row, where the running sum first exceeds this share of the whole; the weight there is not 0."""
    # Sums are rounded and may rise, or fall, where the weight is 0: only those at other weights count.
    sum_BN = jnp.where(weight_BN > 0, jnp.cumsum(weight_BN, axis=-1), 0.0)
    whole_B = jnp.max(sum_BN, axis=-1)
    threshold_B = jnp.minimum(uniform_B * whole_B, jnp.nextafter(whole_B, 0.0))  # a product may round to the whole
    return jnp.argmax(sum_BN > threshold_B[:, None], axis=-1)


def _drop(logits_BV: Array, is_dropped_BV: Array) -> Array:
    return jnp.where(is_dropped_BV, -jnp.inf, logits_BV)
