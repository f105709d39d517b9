"""Boolean masks over the bytes of a row, packed into words of 32 bits; bit 0 of word 0 is the first byte.

Once a mask is packed, a logical operation handles 32 bytes at once, "the next byte that ..." costs two look-ups, and
the state that a sequential scanner carries from byte to byte is the carry of an addition (as in simdjson).
"""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int, UInt8, UInt32

from r1vl_jax.arrays import Array

WORD = 32
_ALL_SET = np.uint32(0xFFFFFFFF)


def pack(mask_U: Bool[Array, " U"]) -> UInt32[Array, " W"]:
    """Packs a mask into words; U is a multiple of 32."""
    return jnp.sum(mask_U.reshape(-1, WORD).astype(jnp.uint32) << _bit_index(), axis=1, dtype=jnp.uint32)


def unpack(word_W: UInt32[Array, " W"]) -> Bool[Array, " U"]:
    """Unpacks a mask."""
    return ((word_W[:, None] >> _bit_index()) & 1).astype(bool).reshape(-1)


def lookahead(word_W: UInt32[Array, " W"], distance: int) -> UInt32[Array, " W"]:
    """For each byte, the bit of the byte `distance` (0 to 31) positions later; 0 past the end."""
    if distance == 0:
        return word_W
    return word_W >> distance | jnp.append(word_W[1:], jnp.uint32(0)) << WORD - distance


def lookbehind(word_W: UInt32[Array, " W"], distance: int) -> UInt32[Array, " W"]:
    """For each byte, the bit of the byte `distance` (0 to 31) positions earlier; 0 before the start."""
    if distance == 0:
        return word_W
    return word_W << distance | jnp.append(jnp.uint32(0), word_W[:-1]) >> WORD - distance


def literal_starts(byte_U: UInt8[Array, " U"], literal: bytes) -> UInt32[Array, " W"]:
    """Where a literal of at most 32 bytes starts."""
    return functools.reduce(operator.and_, (lookahead(pack(byte_U == byte), k) for k, byte in enumerate(literal)))


def extend(start_W: UInt32[Array, " W"], length: int) -> UInt32[Array, " W"]:
    """Extends each set bit to a run of `length` bits."""
    return functools.reduce(operator.or_, (lookbehind(start_W, k) for k in range(length)))


def next_true(word_W: UInt32[Array, " W"], position: Int[Array, "*Q"]) -> Int[Array, "*Q"]:
    """The first set bit at or after each position; U if there is none."""
    num_words = word_W.shape[0]
    occupied_W = jnp.where(word_W != 0, jnp.arange(num_words), num_words)
    next_occupied_W = jnp.append(jax.lax.cummin(occupied_W, reverse=True), num_words)
    word, bit = position // WORD, (position % WORD).astype(jnp.uint32)
    current = word_W.at[word].get(mode="fill", fill_value=0) & (_ALL_SET << bit)
    found = jnp.where(current != 0, word, next_occupied_W.at[word + 1].get(mode="clip"))
    bits = jnp.where(current != 0, current, word_W.at[found].get(mode="fill", fill_value=1))
    return found * WORD + _lowest_bit(bits)


def first_true(word_W: UInt32[Array, " W"]) -> Int[Array, ""]:
    """The first set bit; U if there is none."""
    first = jnp.argmax(word_W != 0)
    return jnp.where(word_W[first] != 0, first * WORD + _lowest_bit(word_W[first]), word_W.shape[0] * WORD)


def num_before(word_W: UInt32[Array, " W"]) -> Int[Array, " U"]:
    """For each byte, the number of set bits before it."""
    below_X = (jnp.uint32(1) << _bit_index()) - 1
    count_WX = jax.lax.population_count(word_W[:, None] & below_X).astype(jnp.int32)
    return (count_WX + _num_before_word(word_W)[:, None]).reshape(-1)


def first_indices(word_W: UInt32[Array, " W"], size: int) -> tuple[Int[Array, " S"], Int[Array, ""]]:
    """Indices of the first `size` set bits, padded with U; and the number of set bits in all."""
    before_W, rank_S = _num_before_word(word_W), jnp.arange(size)
    after_W = before_W + jax.lax.population_count(word_W).astype(jnp.int32)
    index_S = jnp.sum(after_W[None] <= rank_S[:, None], axis=1)
    rank_in_word_S = rank_S - before_W.at[index_S].get(mode="clip")

    def clear_lowest_bit(count: Int[Array, ""], bits_S: UInt32[Array, " S"]) -> UInt32[Array, " S"]:
        return jnp.where(count < rank_in_word_S, bits_S & (bits_S - 1), bits_S)

    bits_S = jax.lax.fori_loop(0, WORD - 1, clear_lowest_bit, word_W.at[index_S].get(mode="fill", fill_value=1))
    return jnp.where(rank_S < after_W[-1], index_S * WORD + _lowest_bit(bits_S), word_W.shape[0] * WORD), after_W[-1]


def after_seeded_runs(run_W: UInt32[Array, " W"], seed_W: UInt32[Array, " W"]) -> UInt32[Array, " W"]:
    """The bit after each run of set bits that holds a seed.

    Adding a seed to its run clears the run from the seed on and carries into the bit after the run:

        run     0 1 1 1 0 1 1 0        first byte on the left
        seed    0 0 1 0 0 0 0 0
        after   0 0 0 0 1 0 0 0

    Args:
        run_W: the runs.
        seed_W: bits within the runs.
    """
    sum_W = run_W + seed_W
    return (sum_W + _carry_in(sum_W < run_W, sum_W == _ALL_SET)) & ~run_W


def _num_before_word(word_W: UInt32[Array, " W"]) -> Int[Array, " W"]:
    count_W = jax.lax.population_count(word_W).astype(jnp.int32)
    return jnp.cumsum(count_W) - count_W


def _carry_in(generates_W: Bool[Array, " W"], propagates_W: Bool[Array, " W"]) -> UInt32[Array, " W"]:
    """The carry into each word (carry look-ahead): that of the last word before it that does not propagate one."""
    carry_W = jnp.where(propagates_W, 0, 2 * jnp.arange(1, generates_W.shape[0] + 1) + generates_W)
    return jnp.append(0, jax.lax.cummax(carry_W)[:-1] & 1).astype(jnp.uint32)


def _lowest_bit(word: UInt32[Array, "*Q"]) -> Int[Array, "*Q"]:
    """Index of the lowest set bit of a non-zero word."""
    return jax.lax.population_count((word & -word) - 1).astype(jnp.int32)


def _bit_index() -> UInt32[Array, "1 32"]:
    return jnp.arange(WORD, dtype=jnp.uint32)[None]
