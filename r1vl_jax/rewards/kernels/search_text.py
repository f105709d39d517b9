"""The text of one row in which key steps are searched, with the offset mapping back to the completion."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int, UInt8, UInt32

from r1vl_jax.arrays import Array, bundle
from r1vl_jax.rewards.kernels import bits
from r1vl_jax.rewards.kernels import characters as ch
from r1vl_jax.rewards.kernels.headings import STEP, Headings
from r1vl_jax.rewards.kernels.row import Row

_OPERATORS = b"+-*/=<>(){}[],:^_|"


@bundle
class SearchText:
    """A text to search in.

    Attributes:
        byte_U: its bytes, padded with 0.
        source_U: index in the completion of each byte; 0 in padding.
        length: number of bytes.
        is_boundary_U: whether a match may begin or end before each byte; index `length` is the end of the text.
    """

    byte_U: UInt8[Array, " U"]
    source_U: Int[Array, " U"]
    length: Int[Array, ""]
    is_boundary_U: Bool[Array, " U"]


def normalised_text(row: Row, end: Int[Array, ""]) -> SearchText:
    """The text before `end` in normal form; matches split neither a run of letters nor a number."""
    byte_U, source_U, length = normal_form(row.byte_U, end)
    letter_W, digit_W = bits.pack(ch.is_letter(byte_U)), bits.pack(ch.is_digit(byte_U))
    number_W = digit_W | bits.literal_starts(byte_U, b".") & bits.lookahead(digit_W, 1)
    is_inside_W = letter_W & bits.lookbehind(letter_W, 1) | number_W & bits.lookbehind(number_W, 1)
    return SearchText(byte_U, source_U, length, bits.unpack(~is_inside_W) & (row.index_U <= length))


def step_bodies(row: Row, found: Headings) -> SearchText:
    """The bodies of all steps, case-folded and joined by a space; a match may begin and end anywhere.

    A step heading may be at any position of a line; its body ends before the next line that begins with ###.
    """
    body_start_J = row.next_non_space(found.end_J)
    section_end_W = bits.literal_starts(row.byte_U, b"\n###")
    body_end_J = jnp.minimum(bits.next_true(section_end_W, body_start_J), row.length)
    is_step_J = _outside_bodies(found.kind_J == STEP, found.start_J, body_end_J)
    is_joined_J = is_step_J & (jnp.cumsum(is_step_J.astype(jnp.int32)) > 1)

    size = row.byte_U.shape[0]  # as an index it is out of bounds: dropped by the scatters below
    edge_U = jnp.zeros(size, jnp.int32)
    edge_U = edge_U.at[jnp.where(is_step_J, body_start_J, size)].add(1, mode="drop")
    edge_U = edge_U.at[jnp.where(is_step_J, body_end_J, size)].add(-1, mode="drop")
    # The first byte of a step's heading becomes the space that joins its body to the one before.
    is_space_U = jnp.zeros(size, bool).at[jnp.where(is_joined_J, found.start_J, size)].set(True, mode="drop")
    kept_byte_U = jnp.where(is_space_U, ord(" "), ch.fold(row.byte_U))
    byte_U, source_U, length = _compact(bits.pack((jnp.cumsum(edge_U) > 0) | is_space_U), kept_byte_U)
    return SearchText(byte_U, source_U, length, row.index_U <= length)


def normal_form(
    byte_U: UInt8[Array, " U"], length: Int[Array, ""]
) -> tuple[UInt8[Array, " U"], Int[Array, " U"], Int[Array, ""]]:
    """The first `length` bytes in normal form, as `rewards.normal_form` defines it.

    Returns:
        The bytes, padded with 0; the index of each in `byte_U`; and their number.
    """
    is_text_U = jnp.arange(byte_U.shape[0]) < length
    byte_U = jnp.where(is_text_U, byte_U, 0)
    gap_W, space_W = _gaps(byte_U)
    kept_W = bits.pack(is_text_U) & ~gap_W
    operator_W = kept_W & bits.pack(ch.is_one_of(byte_U, _OPERATORS))
    # A gap at the start of the text is removed, like one after an operator.
    after_operator_W = ~kept_W & bits.lookbehind(operator_W, 1).at[0].apply(lambda word: word | 1)
    after_space_W = bits.after_seeded_runs(~kept_W, space_W & ~kept_W) & ~bits.after_seeded_runs(
        ~kept_W, after_operator_W
    )
    becomes_space_W = bits.lookahead(after_space_W & kept_W & ~operator_W, 1)  # the last byte of the gap
    is_space_U = bits.unpack(becomes_space_W)
    return _compact(kept_W | becomes_space_W, jnp.where(is_space_U, ord(" "), ch.fold(byte_U)))


def _gaps(byte_U: UInt8[Array, " U"]) -> tuple[UInt32[Array, " W"], UInt32[Array, " W"]]:
    """Bytes that are removed or become a space; and which of them count as a space."""
    space_W = bits.pack(ch.is_whitespace(byte_U) | (byte_U == ord("~")))
    escape_W = bits.literal_starts(byte_U, b"\\") & bits.lookahead(bits.pack(ch.is_one_of(byte_U, b",;:! ")), 1)
    gap_W = space_W | bits.literal_starts(byte_U, b"$") | bits.extend(escape_W, 2)
    space_W |= escape_W
    letter_W = bits.pack(ch.is_letter(byte_U))
    for command in (b"\\quad", b"\\qquad", b"\\left", b"\\right"):
        # A command ends where its letters end: \leftarrow is another command.
        command_W = bits.literal_starts(byte_U, command) & ~bits.lookahead(letter_W, len(command))
        gap_W |= bits.extend(command_W, len(command))
        if command.endswith(b"quad"):
            space_W |= command_W
    return gap_W, space_W


def _compact(
    keep_W: UInt32[Array, " W"], byte_U: UInt8[Array, " U"]
) -> tuple[UInt8[Array, " U"], Int[Array, " U"], Int[Array, ""]]:
    """Compacts the bytes to keep: the bytes, their indices in `byte_U`, and their number."""
    size = byte_U.shape[0]
    keep_U, target_U = bits.unpack(keep_W), bits.num_before(keep_W)
    byte_and_source_U = jnp.arange(size) << 8 | byte_U
    kept_U = jnp.zeros(size, jnp.int32).at[jnp.where(keep_U, target_U, size)].set(byte_and_source_U, mode="drop")
    return (kept_U & 0xFF).astype(jnp.uint8), kept_U >> 8, jnp.sum(jax.lax.population_count(keep_W)).astype(jnp.int32)


def _outside_bodies(
    is_step_J: Bool[Array, " J"], start_J: Int[Array, " J"], body_end_J: Int[Array, " J"]
) -> Bool[Array, " J"]:
    """Which step headings are not inside the body of an earlier step."""

    def step(last_end: Int[Array, ""], heading: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        is_step, start, body_end = heading
        is_outside = is_step & (start >= last_end)
        return jnp.where(is_outside, body_end, last_end), is_outside

    return jax.lax.scan(step, jnp.int32(0), (is_step_J, start_J, body_end_J))[1]
