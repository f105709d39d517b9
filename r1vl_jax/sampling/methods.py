"""Sampling methods as objects: `Greedy()`, or `Temperature(1.2, filters=(TopK(50), TopP(0.9)))`.

A filter takes logits already divided by the temperature and sets those of excluded tokens to minus infinity.
"""

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_BLOCK_SIZE = 128  # tokens of the vocabulary that one cumulative sum of the second stage covers


class Method(Protocol):
    """Chooses one token per row, given two random numbers in [0, 1) for it.

    Implementations are hashable, so that a method can be a static argument of `jax.jit`.
    """

    def __call__(self, logits_BV: Float[Array, "B V"], uniform_B2: Float[Array, "B 2"]) -> Int[Array, " B"]: ...


class Filter(Protocol):
    def __call__(self, logits_BV: Float[Array, "B V"]) -> Float[Array, "B V"]: ...


@dataclass(frozen=True)
class Greedy:
    """The most likely token; the random numbers are not used."""

    def __call__(self, logits_BV: Float[Array, "B V"], uniform_B2: Float[Array, "B 2"]) -> Int[Array, " B"]:
        return jnp.argmax(logits_BV, axis=-1)


@dataclass(frozen=True)
class Temperature:
    """A sample from softmax(logits / temperature), after the filters in their order."""

    temperature: float = 1.0
    filters: tuple[Filter, ...] = ()

    def __call__(self, logits_BV: Float[Array, "B V"], uniform_B2: Float[Array, "B 2"]) -> Int[Array, " B"]:
        logits_BV = logits_BV / self.temperature
        for apply_filter in self.filters:
            logits_BV = apply_filter(logits_BV)
        # Inverse-CDF sampling needs no normalised probabilities; subtracting the max avoids overflow.
        return _sample_by_inverse_cdf(jnp.exp(logits_BV - jnp.max(logits_BV, axis=-1, keepdims=True)), uniform_B2)


@dataclass(frozen=True)
class TopK:
    """Keeps the k most likely tokens, and those that tie with the last of them."""

    k: int

    def __call__(self, logits_BV: Float[Array, "B V"]) -> Float[Array, "B V"]:
        smallest_B1 = jax.lax.top_k(logits_BV, min(self.k, logits_BV.shape[-1]))[0][:, -1:]
        return _mask_out(logits_BV, logits_BV < smallest_B1)


@dataclass(frozen=True)
class TopP:
    """Nucleus sampling: keeps the fewest most likely tokens whose probabilities sum to p or more, and ties of the last.

    Source: Holtzman et al., The Curious Case of Neural Text Degeneration, 2019, https://arxiv.org/abs/1904.09751.
    """

    p: float

    def __call__(self, logits_BV: Float[Array, "B V"]) -> Float[Array, "B V"]:
        if self.p >= 1.0:  # float32 cumulative sums reach 1 early and would cut the tail
            return logits_BV
        probability_BV = jax.nn.softmax(logits_BV)
        descending_BV = -jnp.sort(-probability_BV)
        # A token is in the nucleus if the more likely ones sum to less than p. Only the nucleus' smallest probability
        # is needed, not the permutation of the sort.
        mass_before_BV = jnp.cumsum(descending_BV, axis=-1) - descending_BV
        smallest_B1 = jnp.min(jnp.where(mass_before_BV < self.p, descending_BV, 1.0), axis=-1, keepdims=True)
        return _mask_out(logits_BV, probability_BV < smallest_B1)


@dataclass(frozen=True)
class MinP:
    """Keeps tokens at least p times as likely as the most likely one.

    Source: Nguyen et al., Turning Up the Heat: Min-p Sampling, 2024, https://arxiv.org/abs/2407.01082.
    """

    p: float

    def __call__(self, logits_BV: Float[Array, "B V"]) -> Float[Array, "B V"]:
        probability_BV = jax.nn.softmax(logits_BV)
        return _mask_out(logits_BV, probability_BV < self.p * jnp.max(probability_BV, axis=-1, keepdims=True))


def from_settings(*, temperature: float, top_k: int, top_p: float, min_p: float) -> Temperature:
    """The method of the configuration; top_k = 0, top_p = 1 and min_p = 0 filter nothing."""
    filters: tuple[Filter, ...] = ()
    if top_k > 0:
        filters += (TopK(top_k),)
    if top_p < 1:
        filters += (TopP(top_p),)
    if min_p > 0:
        filters += (MinP(min_p),)
    return Temperature(temperature, filters)


def _sample_by_inverse_cdf(weight_BV: Float[Array, "B V"], uniform_B2: Float[Array, "B 2"]) -> Int[Array, " B"]:
    """Samples a token per row in two stages: a block of the vocabulary by its total weight, then a token of the block.

    The Gumbel-max trick of `jax.random.categorical` needs a random number for every token of the vocabulary, and
    generating these takes longer than the matmul with the head. Inverting the CDF needs one for each stage. Two stages
    keep the cumulative sums short.

    Args:
        weight_BV: unnormalised probabilities.
        uniform_B2: the random numbers of the two stages.
    """
    size = weight_BV.shape[1]
    padded_BV = jnp.pad(weight_BV, ((0, 0), (0, -size % _BLOCK_SIZE)))  # padding has weight 0 and is never sampled
    block_BNC = padded_BV.reshape(len(weight_BV), -1, _BLOCK_SIZE)
    block_index_B = _inverse_cdf(jnp.sum(block_BNC, axis=-1), uniform_B2[:, 0])
    block_BC = jnp.take_along_axis(block_BNC, block_index_B[:, None, None], axis=1)[:, 0]
    return block_index_B * _BLOCK_SIZE + _inverse_cdf(block_BC, uniform_B2[:, 1])


def _inverse_cdf(weight_BN: Float[Array, "B N"], uniform_B: Float[Array, " B"]) -> Int[Array, " B"]:
    """The first index of each row whose cumulative weight exceeds uniform * total; its own weight is never 0."""
    # A parallel cumulative sum is rounded differently at each index, so it may rise or fall where the weight is 0. Such
    # indices are excluded, or a token that a filter has removed could be sampled.
    cumulative_BN = jnp.where(weight_BN > 0, jnp.cumsum(weight_BN, axis=-1), 0.0)
    total_B = jnp.max(cumulative_BN, axis=-1)
    # uniform < 1, but the product may be rounded up to the total, which no index exceeds.
    threshold_B = jnp.minimum(uniform_B * total_B, jnp.nextafter(total_B, 0.0))
    return jnp.argmax(cumulative_BN > threshold_B[:, None], axis=-1)


def _mask_out(logits_BV: Array, is_excluded_BV: Array) -> Array:
    return jnp.where(is_excluded_BV, -jnp.inf, logits_BV)
