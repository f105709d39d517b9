"""Character classes of the U bytes of a row, and windows of the row.

Letters are A-Z and a-z, digits 0-9; white space is space, tab, newline, vertical tab, form feed and carriage return.
"""

import functools
import operator

import jax.numpy as jnp
from jaxtyping import Bool, Int, UInt8

from r1vl_jax.arrays import Array


def is_letter(byte_U: UInt8[Array, "*U"]) -> Bool[Array, "*U"]:
    return is_between(byte_U | 0x20, b"a", b"z")


def is_digit(byte_U: UInt8[Array, "*U"]) -> Bool[Array, "*U"]:
    return is_between(byte_U, b"0", b"9")


def is_whitespace(byte_U: UInt8[Array, "*U"]) -> Bool[Array, "*U"]:
    return (byte_U == ord(" ")) | is_between(byte_U, b"\t", b"\r")


def is_between(byte_U: UInt8[Array, "*U"], first: bytes, last: bytes) -> Bool[Array, "*U"]:
    """Whether bytes are in a range, both ends included."""
    return (byte_U >= ord(first)) & (byte_U <= ord(last))


def is_one_of(byte_U: UInt8[Array, "*U"], choices: bytes) -> Bool[Array, "*U"]:
    return functools.reduce(operator.or_, (byte_U == choice for choice in choices))


def fold(byte_U: UInt8[Array, "*U"]) -> UInt8[Array, "*U"]:
    """Case-folds A-Z to a-z."""
    return jnp.where(is_between(byte_U, b"A", b"Z"), byte_U | 0x20, byte_U)


def window(byte_U: UInt8[Array, " U"], start: Int[Array, ""], width: int) -> UInt8[Array, " X"]:
    """The `width` bytes from `start` on, padded with 0."""
    return byte_U.at[start + jnp.arange(width)].get(mode="fill", fill_value=0)
