"""Key steps in a text, by rolling hashes verified exactly.

The hash of a text x is  h(x) = sum_k (x[k] + 1) BASE^k  modulo 2^32. With the prefix sums H of the text, a spelling x
of n bytes can stand at i only where

    H[i + n] - H[i] = BASE^i h(x)

so that looking for a spelling costs the same however long it is. Of each group, the match that ends first is compared
byte by byte. Should another text have the same hash (one row in ten thousand), the row is undecided.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int, UInt8, UInt32

from r1vl_jax.arrays import Array, bundle
from r1vl_jax.rewards.kernels import bits
from r1vl_jax.rewards.kernels.characters import window
from r1vl_jax.rewards.kernels.searchable import Searchable

_BASE = 0x9E3779B1  # odd, its bits well mixed


@bundle
class Matches:
    """Which of R groups of key steps were found, and where.

    Attributes:
        is_matched_R: whether any spelling of the group stands in the text; never where it does not.
        end_R: where the first match ends in the completion, in bytes.
        is_exact: False if a hash deceived, and a match behind that place may have been missed.
    """

    is_matched_R: Bool[Array, " R"]
    end_R: Int[Array, " R"]
    is_exact: Bool[Array, ""]


def find_key_steps(text: Searchable, byte_RAL: UInt8[Array, "R A L"], length_RA: Int[Array, "R A"]) -> Matches:
    """Looks for every spelling of every group; one of length -1 is never found."""
    start_RA = _first_places(text, byte_RAL, length_RA)
    nowhere = text.byte_U.shape[0]
    end_RA = jnp.where(start_RA < nowhere, start_RA + length_RA, nowhere)
    best_R1 = jnp.argmin(end_RA, axis=1)[:, None]
    start_R, end_R, length_R = (jnp.take_along_axis(x_RA, best_R1, 1)[:, 0] for x_RA in (start_RA, end_RA, length_RA))
    spelling_RL = jnp.take_along_axis(byte_RAL, best_R1[..., None], 1)[:, 0]

    is_found_R = end_R < nowhere
    place_L = jnp.arange(byte_RAL.shape[2])
    found_RL = jax.vmap(lambda start: window(text.byte_U, start, byte_RAL.shape[2]))(start_R)
    is_same_R = jnp.all((found_RL == spelling_RL) | (place_L[None] >= length_R[:, None]), axis=1)
    return Matches(
        is_matched_R=is_found_R & is_same_R,
        end_R=jnp.where(end_R > 0, text.origin_U.at[end_R - 1].get(mode="clip") + 1, 0),
        is_exact=jnp.all(is_same_R | ~is_found_R),
    )


def _first_places(text: Searchable, byte_RAL: UInt8[Array, "R A L"], length_RA: Int[Array, "R A"]) -> Array:
    """Where each spelling first stands, going by its hash; U if nowhere."""
    size, longest = text.byte_U.shape[0], byte_RAL.shape[2]
    weight_U, border_W = _powers(size), bits.pack(text.is_border_U)
    sum_U = jnp.cumsum(_terms(text.byte_U, weight_U))
    before_U = jnp.append(jnp.uint32(0), sum_U[:-1])
    before_padded = jnp.pad(before_U, (0, longest))
    is_border_padded = jnp.pad(text.is_border_U, (0, longest))
    is_in_spelling_RAL = jnp.arange(longest)[None, None] < length_RA[..., None]
    term_RAL = jnp.where(is_in_spelling_RAL, _terms(byte_RAL, _powers(longest)[None, None]), 0)
    hash_RA = jnp.sum(term_RAL, axis=2, dtype=jnp.uint32)

    def first_place(spelling: tuple[Int[Array, ""], UInt32[Array, ""]]) -> Int[Array, ""]:
        length, hash_of_spelling = spelling
        before_end_U = jax.lax.dynamic_slice(before_padded, (length,), (size,))
        is_end_U = jax.lax.dynamic_slice(is_border_padded, (length,), (size,))
        fits_U = before_end_U - before_U == weight_U * hash_of_spelling
        return bits.first_true(bits.pack(fits_U & is_end_U & (length >= 0)) & border_W)

    # One spelling after the other: all at once would fill the memory with R x A x U.
    return jax.lax.map(first_place, (length_RA.reshape(-1), hash_RA.reshape(-1))).reshape(length_RA.shape)


def _terms(byte: UInt8[Array, "*U"], weight: UInt32[Array, "*U"]) -> UInt32[Array, "*U"]:
    return (byte.astype(jnp.uint32) + 1) * weight


def _powers(size: int) -> UInt32[Array, " U"]:
    """BASE^0, BASE^1, ... modulo 2^32."""
    return jnp.asarray(np.cumprod([1] + [_BASE] * (size - 1), dtype=np.uint32))
