"""Final answers of completions: how a line is cut out, and the comparison that `rewards.answers` defines."""

import jax.numpy as jnp
from jaxtyping import Bool, Int, UInt8

from r1vl_jax.arrays import Array, bundle
from r1vl_jax.rewards.bundles import Answers
from r1vl_jax.rewards.kernels import numbers
from r1vl_jax.rewards.kernels.characters import fold, is_between, is_letter, is_one_of, is_white, window
from r1vl_jax.rewards.kernels.row import Row
from r1vl_jax.rewards.kernels.searchable import normal_form

MAX_LENGTH = 128  # bytes of an answer that are read; of a longer one only its option letter is decided
_LAST_OPTION = b"j"


@bundle
class Line:
    """The answer that a completion gives.

    Attributes:
        byte_W: the bytes; 0 behind the end.
        length: bytes of it, without white space around; 0 if there is no answer.
        is_all: False if it is longer than W bytes.
    """

    byte_W: UInt8[Array, " W"]
    length: Int[Array, ""]
    is_all: Bool[Array, ""]


def first_line(row: Row, start: Int[Array, ""]) -> Line:
    """The first line with anything on it, from `start` on."""
    start = row.next_solid(start)
    return _cut_out(row, start, row.next_newline(start))


def whole_text(row: Row) -> Line:
    """All of the completion."""
    return _cut_out(row, row.next_solid(jnp.int32(0)), row.length)


def compare(gold: Answers, line: Line) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    """Whether a row's answer is the reference answer; and whether that is decided, as it is not for longer answers."""
    form_W, _, length = normal_form(line.byte_W, line.length)
    is_same_form = line.is_all & (length == gold.form_length_B) & jnp.all(form_W == gold.form_BW)
    can_be_read = line.is_all & (length <= numbers.MAX_LENGTH)
    number = numbers.read_number(form_W[: numbers.MAX_LENGTH], length)
    is_number = can_be_read & number.is_number
    gold_number = numbers.Rational(gold.is_number_B, gold.is_negative_B, gold.top_BN, gold.bottom_BN)
    is_letters = line.is_all & (length > 0) & jnp.all(is_letter(form_W) | (jnp.arange(MAX_LENGTH) >= length))
    option = _option(line)

    are_numbers = is_number & gold.is_number_B
    are_options = (option > 0) & (gold.option_B > 0)
    are_unlike = (is_number & gold.is_letters_B) | (is_letters & gold.is_number_B)
    is_correct = jnp.where(are_numbers, numbers.is_equal(number, gold_number), are_options & (option == gold.option_B))
    return is_same_form | is_correct, is_same_form | are_numbers | are_options | are_unlike


def _cut_out(row: Row, start: Int[Array, ""], end: Int[Array, ""]) -> Line:
    place_W = jnp.arange(MAX_LENGTH)
    byte_W = window(row.byte_U, start, MAX_LENGTH)
    is_solid_W = (place_W < end - start) & ~is_white(byte_W)
    length = jnp.max(jnp.where(is_solid_W, place_W + 1, 0))
    return Line(jnp.where(place_W < length, byte_W, 0), length, end - start <= MAX_LENGTH)


def _option(line: Line) -> Int[Array, ""]:
    """1 for `A`, `(A)`, `A: 45`, `A. 45` ..., 2 for B and so on to J; 0 if it is no option."""
    first, second, third, fourth = line.byte_W[0], line.byte_W[1], line.byte_W[2], line.byte_W[3]

    def ends_at(place: int) -> Bool[Array, ""]:
        return line.length == place

    is_bare = ends_at(1) | is_one_of(second, b":)") | (second == ord(".")) & (ends_at(2) | is_white(third))
    is_in_brackets = (first == ord("(")) & (third == ord(")"))
    is_in_brackets &= ends_at(3) | is_one_of(fourth, b":.") | is_white(fourth)
    letter = fold(jnp.where(is_in_brackets, second, first))
    is_option = is_between(letter, b"a", _LAST_OPTION) & (is_in_brackets | is_bare)
    return jnp.where(is_option, letter.astype(jnp.int32) - ord("a") + 1, 0)
