"""Searches key steps in a text by rolling hashes (Rabin-Karp), with an exact check of the first match.

The hash of a text x is  h(x) = sum_k (x[k] + 1) BASE^k  modulo 2^32. With the prefix sums H of the text, a spelling x
of n bytes can occur at i only where

    H[i + n] - H[i] = BASE^i h(x)

so that the cost of a search does not depend on the length of the spelling. Of each group, the candidate that ends first
is compared byte by byte. If it is a hash collision (one row in ten thousand), the row is undecided.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int, UInt8, UInt32

from r1vl_jax.arrays import Array, bundle
from r1vl_jax.rewards.kernels import bits
from r1vl_jax.rewards.kernels.characters import window
from r1vl_jax.rewards.kernels.search_text import SearchText

_BASE = 0x9E3779B1  # odd, its bits well mixed


@bundle
class Matches:
    """Which of R groups of key steps are matched, and where.

    Attributes:
        is_matched_R: whether a spelling of the group occurs in the text; no false positives.
        end_R: byte offset in the completion where the first match ends.
        is_verified: False after a hash collision, which may hide a later match.
    """

    is_matched_R: Bool[Array, " R"]
    end_R: Int[Array, " R"]
    is_verified: Bool[Array, ""]


def find_key_steps(text: SearchText, byte_RAL: UInt8[Array, "R A L"], length_RA: Int[Array, "R A"]) -> Matches:
    """Searches every spelling of every group; one of length -1 never matches."""
    start_RA = _first_candidates(text, byte_RAL, length_RA)
    no_match = text.byte_U.shape[0]
    end_RA = jnp.where(start_RA < no_match, start_RA + length_RA, no_match)
    first_R1 = jnp.argmin(end_RA, axis=1)[:, None]
    start_R, end_R, length_R = (jnp.take_along_axis(x_RA, first_R1, 1)[:, 0] for x_RA in (start_RA, end_RA, length_RA))
    spelling_RL = jnp.take_along_axis(byte_RAL, first_R1[..., None], 1)[:, 0]

    is_found_R = end_R < no_match
    index_L = jnp.arange(byte_RAL.shape[2])
    found_RL = jax.vmap(lambda start: window(text.byte_U, start, byte_RAL.shape[2]))(start_R)
    is_same_R = jnp.all((found_RL == spelling_RL) | (index_L[None] >= length_R[:, None]), axis=1)
    return Matches(
        is_matched_R=is_found_R & is_same_R,
        end_R=jnp.where(end_R > 0, text.source_U.at[end_R - 1].get(mode="clip") + 1, 0),
        is_verified=jnp.all(is_same_R | ~is_found_R),
    )


def _first_candidates(text: SearchText, byte_RAL: UInt8[Array, "R A L"], length_RA: Int[Array, "R A"]) -> Array:
    """The first position where the hash of each spelling matches; U if there is none."""
    size, longest = text.byte_U.shape[0], byte_RAL.shape[2]
    weight_U, boundary_W = _powers(size), bits.pack(text.is_boundary_U)
    sum_U = jnp.cumsum(_terms(text.byte_U, weight_U))
    before_U = jnp.append(jnp.uint32(0), sum_U[:-1])
    before_padded = jnp.pad(before_U, (0, longest))
    is_boundary_padded = jnp.pad(text.is_boundary_U, (0, longest))
    is_in_spelling_RAL = jnp.arange(longest)[None, None] < length_RA[..., None]
    term_RAL = jnp.where(is_in_spelling_RAL, _terms(byte_RAL, _powers(longest)[None, None]), 0)
    hash_RA = jnp.sum(term_RAL, axis=2, dtype=jnp.uint32)

    def first_candidate(spelling: tuple[Int[Array, ""], UInt32[Array, ""]]) -> Int[Array, ""]:
        length, spelling_hash = spelling
        before_end_U = jax.lax.dynamic_slice(before_padded, (length,), (size,))
        is_end_U = jax.lax.dynamic_slice(is_boundary_padded, (length,), (size,))
        is_match_U = before_end_U - before_U == weight_U * spelling_hash
        return bits.first_true(bits.pack(is_match_U & is_end_U & (length >= 0)) & boundary_W)

    # One spelling after the other: all at once would need an array of R x A x U.
    return jax.lax.map(first_candidate, (length_RA.reshape(-1), hash_RA.reshape(-1))).reshape(length_RA.shape)


def _terms(byte: UInt8[Array, "*U"], weight: UInt32[Array, "*U"]) -> UInt32[Array, "*U"]:
    return (byte.astype(jnp.uint32) + 1) * weight


def _powers(size: int) -> UInt32[Array, " U"]:
    """BASE^0, BASE^1, ... modulo 2^32."""
    return jnp.asarray(np.cumprod([1] + [_BASE] * (size - 1), dtype=np.uint32))
