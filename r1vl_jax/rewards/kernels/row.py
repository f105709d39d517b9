"""One completion as the kernels read it: U bytes, the text from the left and at least one byte of padding."""

import jax.numpy as jnp
from jaxtyping import Int, UInt8, UInt32

from r1vl_jax.arrays import Array, bundle
from r1vl_jax.rewards.kernels import bits
from r1vl_jax.rewards.kernels.characters import is_whitespace


@bundle
class Row:
    """The bytes of a completion, and bit masks of the bytes that are searched for often.

    Attributes:
        byte_U: the text, padded with 0; U is a multiple of 32 and exceeds the length.
        length: bytes of the text.
        non_space_W: which bytes are text other than white space, a bit each; see `bits`.
        newline_W: which bytes are newlines.
    """

    byte_U: UInt8[Array, " U"]
    length: Int[Array, ""]
    non_space_W: UInt32[Array, " W"]
    newline_W: UInt32[Array, " W"]

    @property
    def index_U(self) -> Int[Array, " U"]:
        return jnp.arange(self.byte_U.shape[0])

    def next_non_space(self, position: Int[Array, "*Q"]) -> Int[Array, "*Q"]:
        """Index of the first byte at or after each position that is not white space; the length if there is none."""
        return jnp.minimum(bits.next_true(self.non_space_W, position), self.length)

    def next_newline(self, position: Int[Array, "*Q"]) -> Int[Array, "*Q"]:
        """Index of the first newline at or after each position; the length if there is none."""
        return jnp.minimum(bits.next_true(self.newline_W, position), self.length)


def make_row(byte_U: UInt8[Array, " U"], length: Int[Array, ""]) -> Row:
    """Clears the padding and computes the bit masks."""
    is_text_U = jnp.arange(byte_U.shape[0]) < length
    byte_U = jnp.where(is_text_U, byte_U, 0)
    return Row(
        byte_U=byte_U,
        length=length,
        non_space_W=bits.pack(is_text_U & ~is_whitespace(byte_U)),
        newline_W=bits.pack(byte_U == ord("\n")),
    )
