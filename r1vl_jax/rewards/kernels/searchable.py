"""The text of one row in which key steps are looked for, made of bytes of the completion, and where each came from."""

import functools
import operator

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int, UInt8

from r1vl_jax.arrays import Array, bundle
from r1vl_jax.rewards.kernels import bits
from r1vl_jax.rewards.kernels import characters as ch
from r1vl_jax.rewards.kernels.headings import STEP, Headings
from r1vl_jax.rewards.kernels.row import Row

_TIGHT = b"+-*/=<>(){}[],:^_|"


@bundle
class Searchable:
    """A text to search in.

    Attributes:
        byte_U: its bytes; 0 behind the end.
        origin_U: the byte of the completion that each came from; 0 behind the end.
        length: bytes of it.
        is_border_U: whether a match may begin or end before each byte; one place behind the last byte counts too.
    """

    byte_U: UInt8[Array, " U"]
    origin_U: Int[Array, " U"]
    length: Int[Array, ""]
    is_border_U: Bool[Array, " U"]


def normalised_path(row: Row, end: Int[Array, ""]) -> Searchable:
    """What stands before `end`, in normal form; matches cut neither a run of letters nor a number."""
    byte_U, origin_U, length = normal_form(row.byte_U, end)
    is_letter_U, is_digit_U = ch.is_letter(byte_U), ch.is_digit(byte_U)
    is_number_U = is_digit_U | (byte_U == ord(".")) & ch.ahead(is_digit_U, 1)
    cuts_U = is_letter_U & ch.behind(is_letter_U, 1) | is_number_U & ch.behind(is_number_U, 1)
    return Searchable(byte_U, origin_U, length, ~cuts_U & (row.place_U <= length))


def step_bodies(row: Row, found: Headings) -> Searchable:
    """The bodies of all steps, case-folded and joined by a space; a match may begin and end anywhere.

    A step is a heading anywhere on a line; its body ends before the next line that begins with ###.
    """
    body_start_J = row.next_solid(found.end_J)
    is_mark_W = bits.pack(ch.begins(row.byte_U, b"\n###"))
    body_end_J = jnp.minimum(bits.next_true(is_mark_W, body_start_J), row.length)
    is_step_J = _outside_bodies(found.kind_J == STEP, found.start_J, body_end_J)
    is_joined_J = is_step_J & (jnp.cumsum(is_step_J.astype(jnp.int32)) > 1)

    beyond = row.byte_U.shape[0]
    edge_U = jnp.zeros(beyond, jnp.int32)
    edge_U = edge_U.at[jnp.where(is_step_J, body_start_J, beyond)].add(1, mode="drop")
    edge_U = edge_U.at[jnp.where(is_step_J, body_end_J, beyond)].add(-1, mode="drop")
    # The first byte of a step's heading becomes the space before its body.
    is_space_U = jnp.zeros(beyond, bool).at[jnp.where(is_joined_J, found.start_J, beyond)].set(True, mode="drop")
    kept_byte_U = jnp.where(is_space_U, ord(" "), ch.fold(row.byte_U))
    byte_U, origin_U, length = _keep((jnp.cumsum(edge_U) > 0) | is_space_U, kept_byte_U)
    return Searchable(byte_U, origin_U, length, row.place_U <= length)


def normal_form(
    byte_U: UInt8[Array, " U"], length: Int[Array, ""]
) -> tuple[UInt8[Array, " U"], Int[Array, " U"], Int[Array, ""]]:
    """The first `length` bytes in normal form, as `rewards.normal_form` defines it.

    Returns:
        The bytes, 0 behind the end; where each came from; and how many there are.
    """
    place_U = jnp.arange(byte_U.shape[0])
    byte_U = jnp.where(place_U < length, byte_U, 0)
    is_gap_U, has_space_U = _gaps(byte_U)
    is_kept_U = ~is_gap_U & (place_U < length)
    is_tight_U = is_kept_U & ch.is_one_of(byte_U, _TIGHT)
    # A gap at the beginning is like one behind a tight byte: no space comes of it.
    opens_tight_U = ~is_kept_U & (ch.behind(is_tight_U, 1) | (place_U == 0))
    gap_W = bits.pack(~is_kept_U)
    spaced_W = bits.behind_runs(gap_W, bits.pack(has_space_U & ~is_kept_U))
    tight_W = bits.behind_runs(gap_W, bits.pack(opens_tight_U))
    follows_space_U = bits.unpack(spaced_W & ~tight_W) & ~is_tight_U
    is_space_U = ch.ahead(follows_space_U & is_kept_U, 1)  # the last byte of the gap becomes the space
    return _keep(is_kept_U | is_space_U, jnp.where(is_space_U, ord(" "), ch.fold(byte_U)))


def _gaps(byte_U: UInt8[Array, " U"]) -> tuple[Bool[Array, " U"], Bool[Array, " U"]]:
    """Which bytes go or become a space; and where, among them, something stands that counts as a space."""
    is_space_U = ch.is_white(byte_U) | (byte_U == ord("~"))
    is_escape_U = (byte_U == ord("\\")) & ch.is_one_of(ch.ahead(byte_U, 1), b",;:! ")
    is_gap_U = is_space_U | (byte_U == ord("$")) | _covers(is_escape_U, 2)
    is_space_U |= is_escape_U
    for command in (b"\\quad", b"\\qquad", b"\\left", b"\\right"):
        # No command begins where letters go on: \leftarrow is another.
        is_command_U = ch.begins(byte_U, command) & ~ch.is_letter(ch.ahead(byte_U, len(command)))
        is_gap_U |= _covers(is_command_U, len(command))
        if command.endswith(b"quad"):
            is_space_U |= is_command_U
    return is_gap_U, is_space_U


def _covers(begins_U: Bool[Array, " U"], length: int) -> Bool[Array, " U"]:
    return functools.reduce(operator.or_, (ch.behind(begins_U, distance) for distance in range(length)))


def _keep(
    keep_U: Bool[Array, " U"], byte_U: UInt8[Array, " U"]
) -> tuple[UInt8[Array, " U"], Int[Array, " U"], Int[Array, ""]]:
    """The bytes to keep, side by side; where each came from; and how many there are."""
    size = keep_U.shape[0]
    kept_U, length = ch.compact(keep_U, jnp.arange(size) << 8 | byte_U, size=size, fill=0)
    return (kept_U & 0xFF).astype(jnp.uint8), kept_U >> 8, length


def _outside_bodies(
    is_step_J: Bool[Array, " J"], start_J: Int[Array, " J"], body_end_J: Int[Array, " J"]
) -> Bool[Array, " J"]:
    """Which step headings do not stand in the body of an earlier step."""

    def take(last_end: Int[Array, ""], step: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        is_step, start, body_end = step
        is_taken = is_step & (start >= last_end)
        return jnp.where(is_taken, body_end, last_end), is_taken

    return jax.lax.scan(take, jnp.int32(0), (is_step_J, start_J, body_end_J))[1]
