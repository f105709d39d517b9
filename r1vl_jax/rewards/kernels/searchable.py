"""The text of one row in which key steps are looked for, made of bytes of the completion, and where each came from."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int, UInt8, UInt32

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
    letter_W, digit_W = bits.pack(ch.is_letter(byte_U)), bits.pack(ch.is_digit(byte_U))
    number_W = digit_W | bits.begins(byte_U, b".") & bits.ahead(digit_W, 1)
    cut_W = letter_W & bits.behind(letter_W, 1) | number_W & bits.behind(number_W, 1)
    return Searchable(byte_U, origin_U, length, bits.unpack(~cut_W) & (row.place_U <= length))


def step_bodies(row: Row, found: Headings) -> Searchable:
    """The bodies of all steps, case-folded and joined by a space; a match may begin and end anywhere.

    A step is a heading anywhere on a line; its body ends before the next line that begins with ###.
    """
    body_start_J = row.next_solid(found.end_J)
    mark_W = bits.begins(row.byte_U, b"\n###")
    body_end_J = jnp.minimum(bits.next_true(mark_W, body_start_J), row.length)
    is_step_J = _outside_bodies(found.kind_J == STEP, found.start_J, body_end_J)
    is_joined_J = is_step_J & (jnp.cumsum(is_step_J.astype(jnp.int32)) > 1)

    beyond = row.byte_U.shape[0]
    edge_U = jnp.zeros(beyond, jnp.int32)
    edge_U = edge_U.at[jnp.where(is_step_J, body_start_J, beyond)].add(1, mode="drop")
    edge_U = edge_U.at[jnp.where(is_step_J, body_end_J, beyond)].add(-1, mode="drop")
    # The first byte of a step's heading becomes the space before its body.
    is_space_U = jnp.zeros(beyond, bool).at[jnp.where(is_joined_J, found.start_J, beyond)].set(True, mode="drop")
    kept_byte_U = jnp.where(is_space_U, ord(" "), ch.fold(row.byte_U))
    byte_U, origin_U, length = _keep(bits.pack((jnp.cumsum(edge_U) > 0) | is_space_U), kept_byte_U)
    return Searchable(byte_U, origin_U, length, row.place_U <= length)


def normal_form(
    byte_U: UInt8[Array, " U"], length: Int[Array, ""]
) -> tuple[UInt8[Array, " U"], Int[Array, " U"], Int[Array, ""]]:
    """The first `length` bytes in normal form, as `rewards.normal_form` defines it.

    Returns:
        The bytes, 0 behind the end; where each came from; and how many there are.
    """
    is_text_U = jnp.arange(byte_U.shape[0]) < length
    byte_U = jnp.where(is_text_U, byte_U, 0)
    gap_W, space_W = _gaps(byte_U)
    kept_W = bits.pack(is_text_U) & ~gap_W
    tight_W = kept_W & bits.pack(ch.is_one_of(byte_U, _TIGHT))
    # A gap at the beginning is like one behind a tight byte: no space comes of it.
    opens_tight_W = ~kept_W & bits.behind(tight_W, 1).at[0].apply(lambda word: word | 1)
    follows_space_W = bits.behind_runs(~kept_W, space_W & ~kept_W) & ~bits.behind_runs(~kept_W, opens_tight_W)
    becomes_space_W = bits.ahead(follows_space_W & kept_W & ~tight_W, 1)  # the last byte of the gap
    is_space_U = bits.unpack(becomes_space_W)
    return _keep(kept_W | becomes_space_W, jnp.where(is_space_U, ord(" "), ch.fold(byte_U)))


def _gaps(byte_U: UInt8[Array, " U"]) -> tuple[UInt32[Array, " W"], UInt32[Array, " W"]]:
    """Which bytes go or become a space; and where, among them, something stands that counts as a space."""
    space_W = bits.pack(ch.is_white(byte_U) | (byte_U == ord("~")))
    escape_W = bits.begins(byte_U, b"\\") & bits.ahead(bits.pack(ch.is_one_of(byte_U, b",;:! ")), 1)
    gap_W = space_W | bits.begins(byte_U, b"$") | bits.covers(escape_W, 2)
    space_W |= escape_W
    letter_W = bits.pack(ch.is_letter(byte_U))
    for command in (b"\\quad", b"\\qquad", b"\\left", b"\\right"):
        # No command begins where letters go on: \leftarrow is another.
        command_W = bits.begins(byte_U, command) & ~bits.ahead(letter_W, len(command))
        gap_W |= bits.covers(command_W, len(command))
        if command.endswith(b"quad"):
            space_W |= command_W
    return gap_W, space_W


def _keep(
    keep_W: UInt32[Array, " W"], byte_U: UInt8[Array, " U"]
) -> tuple[UInt8[Array, " U"], Int[Array, " U"], Int[Array, ""]]:
    """The bytes to keep, side by side; where each came from; and how many there are."""
    size = byte_U.shape[0]
    keep_U, place_U = bits.unpack(keep_W), bits.num_before(keep_W)
    byte_and_origin_U = jnp.arange(size) << 8 | byte_U
    kept_U = jnp.zeros(size, jnp.int32).at[jnp.where(keep_U, place_U, size)].set(byte_and_origin_U, mode="drop")
    return (kept_U & 0xFF).astype(jnp.uint8), kept_U >> 8, jnp.sum(jax.lax.population_count(keep_W)).astype(jnp.int32)


def _outside_bodies(
    is_step_J: Bool[Array, " J"], start_J: Int[Array, " J"], body_end_J: Int[Array, " J"]
) -> Bool[Array, " J"]:
    """Which step headings do not stand in the body of an earlier step."""

    def take(last_end: Int[Array, ""], step: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        is_step, start, body_end = step
        is_taken = is_step & (start >= last_end)
        return jnp.where(is_taken, body_end, last_end), is_taken

    return jax.lax.scan(take, jnp.int32(0), (is_step_J, start_J, body_end_J))[1]
