"""Decodes tokens to the bytes of their text: on the device, for the reward kernels, and on the host."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int, UInt8

from r1vl_jax.arrays import Array, bundle


@bundle
class Vocabulary:
    """The bytes of every token, concatenated (a ragged table in CSR form).

        token v  =  byte[offset[v] : offset[v + 1]]

    Attributes:
        offset: where the bytes of each token begin; the last entry is where they all end.
        byte: the bytes; special tokens have none.
    """

    offset: Int[Array, " V+1"]
    byte: UInt8[Array, " N"]


def token_bytes(
    token_BT: Int[Array, "B T"], mask_BT: Bool[Array, "B T"], vocabulary: Vocabulary, *, max_bytes: int
) -> tuple[UInt8[Array, "B U"], Int[Array, " B"], Int[Array, "B U"], Bool[Array, " B"]]:
    """The text of each row of tokens, as bytes from the left. A character split over several tokens is whole again.

    Args:
        token_BT: token ids; ids beyond the vocabulary have no bytes.
        mask_BT: False where a token is not part of the text.
        max_bytes: width U of the rows; longer texts are cut.

    Returns:
        The bytes, padded with 0; the length of each text in bytes, which may exceed U; for each byte the position of
        its token, -1 in padding; and whether the text exceeds its row.
    """
    row = partial(_row, vocabulary=jax.tree.map(jnp.asarray, vocabulary), max_bytes=max_bytes)
    byte_BU, length_B, token_of_byte_BU = jax.vmap(row)(token_BT, mask_BT)
    return byte_BU, length_B, token_of_byte_BU, length_B > max_bytes


def _row(
    token_T: Int[Array, " T"], mask_T: Bool[Array, " T"], *, vocabulary: Vocabulary, max_bytes: int
) -> tuple[UInt8[Array, " U"], Int[Array, ""], Int[Array, " U"]]:
    source_T = vocabulary.offset[token_T]
    end_T = jnp.cumsum(jnp.where(mask_T, vocabulary.offset[token_T + 1] - source_T, 0))
    start_T = jnp.append(0, end_T[:-1])
    # The token of a byte is the number of tokens that have ended before it.
    num_ends_U = jnp.zeros(max_bytes, jnp.int32).at[end_T].add(1, mode="drop")
    token_of_byte_U = jnp.cumsum(num_ends_U)
    index_U = jnp.arange(max_bytes)
    source_U = index_U + (source_T - start_T).at[token_of_byte_U].get(mode="clip")
    is_text_U = index_U < end_T[-1]
    byte_U = jnp.where(is_text_U, vocabulary.byte.at[source_U].get(mode="clip"), 0)
    return byte_U, end_T[-1], jnp.where(is_text_U, token_of_byte_U, -1)


def token_sizes(token_BT: Int[Array, "B T"], vocabulary: Vocabulary) -> Int[Array, "B T"]:
    """Number of bytes of each token's text, 0 for special tokens."""
    offset = jnp.asarray(vocabulary.offset)
    return offset[token_BT + 1] - offset[token_BT]


def host_bytes(token_BT: Int[Array, "B T"], mask_BT: Bool[Array, "B T"], vocabulary: Vocabulary) -> list[bytes]:
    """The same texts as Python bytes, of any length."""
    offset, byte = np.asarray(vocabulary.offset), np.asarray(vocabulary.byte).tobytes()
    rows = zip(np.asarray(token_BT), np.asarray(mask_BT), strict=True)
    return [b"".join(byte[offset[token] : offset[token + 1]] for token in token_T[mask_T]) for token_T, mask_T in rows]
