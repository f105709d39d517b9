"""Final answers of completions: extraction of the line, and the exact comparison that `rewards.answers` defines."""

import jax.numpy as jnp
from jaxtyping import Bool, Int, UInt8

from r1vl_jax.arrays import Array, bundle
from r1vl_jax.rewards.bundles import Answers
from r1vl_jax.rewards.kernels import numbers
from r1vl_jax.rewards.kernels.characters import fold, is_between, is_letter, is_one_of, is_whitespace, window
from r1vl_jax.rewards.kernels.row import Row
from r1vl_jax.rewards.kernels.search_text import normal_form

MAX_LENGTH = 128  # bytes of an answer that are read; of a longer one only the option letter is compared
_LAST_OPTION = b"j"


@bundle
class AnswerLine:
    """The final answer of a completion, stripped.

    Attributes:
        byte_W: its bytes, padded with 0.
        length: number of bytes; 0 if there is no answer.
        fits: False if it is longer than W bytes.
    """

    byte_W: UInt8[Array, " W"]
    length: Int[Array, ""]
    fits: Bool[Array, ""]


def first_line(row: Row, start: Int[Array, ""]) -> AnswerLine:
    """The first non-blank line from `start` on."""
    start = row.next_non_space(start)
    return _extract(row, start, row.next_newline(start))


def whole_text(row: Row) -> AnswerLine:
    """The whole completion."""
    return _extract(row, row.next_non_space(jnp.int32(0)), row.length)


def compare(gold: Answers, line: AnswerLine) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    """Whether the answer equals the gold answer; and whether the comparison decides it."""
    form_W, _, length = normal_form(line.byte_W, line.length)
    is_same_form = line.fits & (length == gold.form_length_B) & jnp.all(form_W == gold.form_BW)
    is_short = line.fits & (length <= numbers.MAX_LENGTH)
    number = numbers.parse_number(form_W[: numbers.MAX_LENGTH], length)
    is_number = is_short & number.is_number
    gold_number = numbers.Rational(gold.is_number_B, gold.is_negative_B, gold.numerator_BN, gold.denominator_BN)
    is_letters = line.fits & (length > 0) & jnp.all(is_letter(form_W) | (jnp.arange(MAX_LENGTH) >= length))
    option = _option(line)

    are_numbers = is_number & gold.is_number_B
    are_options = (option > 0) & (gold.option_B > 0)
    are_different_kinds = (is_number & gold.is_letters_B) | (is_letters & gold.is_number_B)
    is_correct = jnp.where(are_numbers, numbers.is_equal(number, gold_number), are_options & (option == gold.option_B))
    return is_same_form | is_correct, is_same_form | are_numbers | are_options | are_different_kinds


def _extract(row: Row, start: Int[Array, ""], end: Int[Array, ""]) -> AnswerLine:
    index_W = jnp.arange(MAX_LENGTH)
    byte_W = window(row.byte_U, start, MAX_LENGTH)
    is_non_space_W = (index_W < end - start) & ~is_whitespace(byte_W)
    length = jnp.max(jnp.where(is_non_space_W, index_W + 1, 0))
    return AnswerLine(jnp.where(index_W < length, byte_W, 0), length, end - start <= MAX_LENGTH)


def _option(line: AnswerLine) -> Int[Array, ""]:
    """1 for `A`, `(A)`, `A: 45`, `A. 45`, ..., 2 for B, up to J; 0 if it is not an option."""
    first, second, third, fourth = line.byte_W[0], line.byte_W[1], line.byte_W[2], line.byte_W[3]

    def ends_at(index: int) -> Bool[Array, ""]:
        return line.length == index

    is_bare = ends_at(1) | is_one_of(second, b":)") | (second == ord(".")) & (ends_at(2) | is_whitespace(third))
    is_in_brackets = (first == ord("(")) & (third == ord(")"))
    is_in_brackets &= ends_at(3) | is_one_of(fourth, b":.") | is_whitespace(fourth)
    letter = fold(jnp.where(is_in_brackets, second, first))
    is_option = is_between(letter, b"a", _LAST_OPTION) & (is_in_brackets | is_bare)
    return jnp.where(is_option, letter.astype(jnp.int32) - ord("a") + 1, 0)
