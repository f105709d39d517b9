"""One completion, as the kernels read it: U bytes, the text from the left and at least one byte behind it."""

import jax.numpy as jnp
from jaxtyping import Int, UInt8, UInt32

from r1vl_jax.arrays import Array, bundle
from r1vl_jax.rewards.kernels import bits
from r1vl_jax.rewards.kernels.characters import is_white


@bundle
class Row:
    """The bytes of a completion, and where in them things stand that are looked up often.

    Attributes:
        byte_U: 0 behind the end; U is a multiple of 32 and more than the length.
        length: bytes of the text.
        solid_W: which bytes are text and no white space, in words of bits.
        newline_W: which bytes are newlines.
    """

    byte_U: UInt8[Array, " U"]
    length: Int[Array, ""]
    solid_W: UInt32[Array, " W"]
    newline_W: UInt32[Array, " W"]

    @property
    def place_U(self) -> Int[Array, " U"]:
        return jnp.arange(self.byte_U.shape[0])

    def next_solid(self, position: Int[Array, "*Q"]) -> Int[Array, "*Q"]:
        """Where the first byte at or after each position stands that is no white space; the length if none does."""
        return jnp.minimum(bits.next_true(self.solid_W, position), self.length)

    def next_newline(self, position: Int[Array, "*Q"]) -> Int[Array, "*Q"]:
        """Where the line of each position ends."""
        return jnp.minimum(bits.next_true(self.newline_W, position), self.length)


def make_row(byte_U: UInt8[Array, " U"], length: Int[Array, ""]) -> Row:
    """Clears what stands behind the end, and looks up what is needed."""
    is_text_U = jnp.arange(byte_U.shape[0]) < length
    byte_U = jnp.where(is_text_U, byte_U, 0)
    return Row(
        byte_U=byte_U,
        length=length,
        solid_W=bits.pack(is_text_U & ~is_white(byte_U)),
        newline_W=bits.pack(byte_U == ord("\n")),
    )
