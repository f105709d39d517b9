"""The headings of one row: positions, sections, and the two conditions of StepRVR."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int, UInt8

from r1vl_jax import response_format
from r1vl_jax.arrays import Array, bundle
from r1vl_jax.rewards.kernels import bits
from r1vl_jax.rewards.kernels.characters import is_digit, window
from r1vl_jax.rewards.kernels.row import Row

MAX_HEADINGS = 64  # occurrences of "### ", a multiple of 32; a row with more is undecided
NO_KIND = len(response_format.HEADINGS)
DESCRIPTION, RATIONALE, THINK, STEP, ANSWER = (
    response_format.HEADINGS.index(heading)
    for heading in (
        response_format.DESCRIPTION,
        response_format.RATIONALE,
        response_format.THINK,
        response_format.STEP,
        response_format.ANSWER,
    )
)
_LITERALS = [heading.encode() for heading in response_format.HEADINGS]
_MAX_DIGITS = 9  # of a step's number; longer ones are never in order
_WIDTH = max(*map(len, _LITERALS), len(response_format.STEP) + _MAX_DIGITS)


@bundle
class Headings:
    """The occurrences of "### " in a row, in order, at most J.

    Attributes:
        kind_J: index of the heading in `response_format.HEADINGS`; NO_KIND if it is not one of these.
        start_J: its first byte; U in padding.
        end_J: the byte after it; for a step, after the colon.
        number_J: the number of a step; -1, which is never in order, for more than 9 digits.
        num_digits_J: digits of a step's number.
        is_line_start_J: whether it is at the start of a line.
        fits: whether the row has at most J occurrences.
    """

    kind_J: Int[Array, " J"]
    start_J: Int[Array, " J"]
    end_J: Int[Array, " J"]
    number_J: Int[Array, " J"]
    num_digits_J: Int[Array, " J"]
    is_line_start_J: Bool[Array, " J"]
    fits: Bool[Array, ""]

    def is_section_J(self, kind: int | None = None) -> Bool[Array, " J"]:
        """Which of them open a section (of one kind): a heading does so at the start of a line only."""
        return self.is_line_start_J & (self.kind_J != NO_KIND if kind is None else self.kind_J == kind)


def find_headings(row: Row) -> Headings:
    """All headings, at any position of a line."""
    start_J, count = bits.first_indices(bits.literal_starts(row.byte_U, b"### "), MAX_HEADINGS)
    byte_JX = jax.vmap(lambda start: window(row.byte_U, start, _WIDTH))(start_J)
    first_digit_J = start_J + len(response_format.STEP)
    digits_end_J = bits.next_true(bits.pack(~is_digit(row.byte_U)), first_digit_J)
    num_digits_J = digits_end_J - first_digit_J
    is_numbered_J = (num_digits_J > 0) & (row.byte_U.at[digits_end_J].get(mode="fill", fill_value=0) == ord(":"))

    kind_J = jnp.full(MAX_HEADINGS, NO_KIND)
    for kind, literal in enumerate(_LITERALS):
        is_kind_J = jnp.all(byte_JX[:, : len(literal)] == np.frombuffer(literal, np.uint8)[None], axis=1)
        kind_J = jnp.where(is_kind_J & (is_numbered_J if kind == STEP else True), kind, kind_J)
    length_of_kind = jnp.array([len(literal) for literal in [*_LITERALS, b""]])
    return Headings(
        kind_J=kind_J,
        start_J=start_J,
        end_J=jnp.where(kind_J == STEP, digits_end_J + 1, start_J + length_of_kind[kind_J]),
        number_J=_parse_number(byte_JX[:, len(response_format.STEP) :], num_digits_J),
        num_digits_J=num_digits_J,
        is_line_start_J=(start_J == 0) | (row.byte_U.at[start_J - 1].get(mode="clip") == ord("\n")),
        fits=count <= MAX_HEADINGS,
    )


def section_ends(row: Row, found: Headings) -> Int[Array, " J+1"]:
    """Where the sections of step-level credit end: before each step, before the first answer, at the end; then -1."""
    is_split_J = found.is_section_J(STEP) | _is_first(found.is_section_J(ANSWER))
    index_J, count = bits.first_indices(bits.pack(is_split_J), MAX_HEADINGS + 1)
    return found.start_J.at[index_J].get(mode="fill", fill_value=-1).at[count].set(row.length)


def answer_start(row: Row, found: Headings) -> Int[Array, ""]:
    """Where the first answer section starts; the length if there is none."""
    return jnp.min(jnp.where(found.is_section_J(ANSWER), found.start_J, row.length))


def has_body_J(row: Row, found: Headings) -> Bool[Array, " J"]:
    """Whether there is text other than white space between each heading and the next section."""
    section_start_J = jnp.where(found.is_section_J(), found.start_J, row.length)
    next_start_J = jnp.append(jax.lax.cummin(section_start_J, reverse=True)[1:], row.length)
    return row.next_non_space(found.end_J) < next_start_J


def paper_validity(row: Row, found: Headings) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    """Whether all four parts are present with a body; and whether they are in logical order."""
    is_kind = {kind: found.is_section_J(kind) for kind in (DESCRIPTION, RATIONALE, STEP, ANSWER)}
    is_complete = [jnp.any(is_kind_J & has_body_J(row, found)) for is_kind_J in is_kind.values()]

    first_step = jnp.argmax(is_kind[STEP])
    last_step = MAX_HEADINGS - 1 - jnp.argmax(is_kind[STEP][::-1])
    index_J = jnp.arange(MAX_HEADINGS)
    is_ordered = [
        _is_numbered(is_kind[STEP], found.number_J),
        ~jnp.any((is_kind[DESCRIPTION] | is_kind[RATIONALE]) & (index_J > first_step)),
        ~jnp.any(is_kind[ANSWER] & (index_J < last_step)),
        *(jnp.sum(is_kind[kind]) <= 1 for kind in (DESCRIPTION, RATIONALE, ANSWER)),
    ]
    return functools.reduce(jnp.logical_and, is_complete), functools.reduce(jnp.logical_and, is_ordered)


def released_validity(found: Headings) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    """Whether the four headings occur; and whether steps are 1..n and the first answer follows the last step."""
    is_step_J, is_answer_J = found.kind_J == STEP, found.kind_J == ANSWER
    is_step_one_J = is_step_J & (found.number_J == 1) & (found.num_digits_J == 1)
    has_kind = [found.kind_J == DESCRIPTION, found.kind_J == RATIONALE, is_step_one_J, is_answer_J]
    is_complete = functools.reduce(jnp.logical_and, map(jnp.any, has_kind))
    last_step_start = jnp.max(jnp.where(is_step_J, found.start_J, -1))
    is_last = jnp.any(is_answer_J) & (found.start_J[jnp.argmax(is_answer_J)] > last_step_start)
    return is_complete, _is_numbered(is_step_J, found.number_J) & is_last


def _is_numbered(is_step_J: Bool[Array, " J"], number_J: Int[Array, " J"]) -> Bool[Array, ""]:
    """Whether there are steps, numbered 1, 2, ..."""
    return jnp.any(is_step_J) & jnp.all(~is_step_J | (number_J == jnp.cumsum(is_step_J.astype(jnp.int32))))


def _is_first(is_any_J: Bool[Array, " J"]) -> Bool[Array, " J"]:
    return is_any_J & (jnp.cumsum(is_any_J.astype(jnp.int32)) == 1)


def _parse_number(byte_JX: UInt8[Array, "J X"], num_digits_J: Int[Array, " J"]) -> Int[Array, " J"]:
    number_J = jnp.zeros(num_digits_J.shape, jnp.int32)
    for index in range(_MAX_DIGITS):
        digit_J = byte_JX[:, index].astype(jnp.int32) - ord("0")
        number_J = jnp.where(index < num_digits_J, 10 * number_J + digit_J, number_J)
    return jnp.where(num_digits_J <= _MAX_DIGITS, number_J, -1)
