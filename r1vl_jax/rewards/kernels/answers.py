"""Final answers of completions: the line, and those comparisons of `rewards.answers` that a kernel can make.

Where a kernel decides, `rewards.answers` says the same; lists, units, dates, mathematics and wrappings are undecided.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int, UInt8

from r1vl_jax.arrays import Array, bundle
from r1vl_jax.rewards.answers.numbers import NUMBER_WORDS
from r1vl_jax.rewards.bundles import Answers
from r1vl_jax.rewards.kernels import numbers
from r1vl_jax.rewards.kernels.characters import fold, is_between, is_letter, is_one_of, is_whitespace, window
from r1vl_jax.rewards.kernels.row import Row
from r1vl_jax.rewards.kernels.search_text import normal_form

MAX_LENGTH = 128  # bytes of an answer that are read; a longer one is undecided, but for another option's letter
_LAST_OPTION = b"j"
_MIN_WORD = 4  # letters; fewer may be a product of variables
_NUMBER_WORD_LENGTH = 8
_NUMBER_WORDS = np.array(
    [list(word.encode().ljust(_NUMBER_WORD_LENGTH, b"\0")) for word in sorted(NUMBER_WORDS)], np.uint8
)


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
    marks, option = _marks(line), _option(line)
    is_same_form = line.fits & marks.are_none & (length == gold.form_length_B) & jnp.all(form_W == gold.form_BW)
    is_same_form &= gold.form_decides_B & ~(gold.is_number_B & marks.has_comma_at_space)
    is_same_form &= option.index == gold.option_B

    is_short = line.fits & (length <= numbers.MAX_LENGTH)
    number = numbers.parse_number(form_W[: numbers.MAX_LENGTH], length)
    is_number = is_short & number.is_number & ~marks.has_comma_at_space & marks.allow_number
    gold_number = numbers.Rational(gold.is_number_B, gold.is_negative_B, gold.numerator_BN, gold.denominator_BN)
    are_numbers = is_number & gold.is_number_B

    is_word = line.fits & marks.are_none & (length > 1)
    is_word &= jnp.all(is_letter(form_W) | (jnp.arange(MAX_LENGTH) >= length))
    is_number_word = jnp.any(jnp.all(form_W[None, :_NUMBER_WORD_LENGTH] == _NUMBER_WORDS, axis=1))
    is_plain_word = is_word & (length >= _MIN_WORD) & ~((length <= _NUMBER_WORD_LENGTH) & is_number_word)
    is_bare_option = (gold.option_B > 0) & ~gold.option_has_text_B
    is_another_kind = (is_word & (gold.is_word_B | is_bare_option)) | (is_number & (gold.is_word_B | is_bare_option))
    is_another_kind |= is_plain_word & gold.is_number_B
    is_another_kind |= (option.index > 0) & ~option.has_text & (gold.is_word_B | gold.is_number_B)

    are_options = (option.index > 0) & (gold.option_B > 0)
    is_option_equal = are_options & (option.index == gold.option_B)
    is_single = option.is_single & marks.are_none & line.fits
    is_option_decided = are_options & ((option.index != gold.option_B) | is_single)

    is_correct = jnp.where(are_numbers, numbers.is_equal(number, gold_number), is_option_equal)
    is_decided = is_same_form | are_numbers | is_option_decided | is_another_kind
    is_equal = is_same_form | (is_correct & ~is_another_kind)
    return is_equal, is_decided & (is_equal | ~gold.has_others_B)


@bundle
class _Marks:
    """What in an answer can make the short comparisons of the kernels wrong.

    Attributes:
        are_none: whether there is neither a byte above 0x7f nor any of `$ \\ ~` and the back quote.
        allow_number: whether the number that is left in normal form is all that is there: no dollar within.
        has_comma_at_space: whether a space is beside a comma, which then groups no thousands.
    """

    are_none: Bool[Array, ""]
    allow_number: Bool[Array, ""]
    has_comma_at_space: Bool[Array, ""]


def _marks(line: AnswerLine) -> _Marks:
    byte_W, index_W = line.byte_W, jnp.arange(MAX_LENGTH)
    is_ascii = jnp.all(byte_W < 0x80)
    is_dollar_W, is_comma_W, is_space_W = byte_W == ord("$"), byte_W == ord(","), is_whitespace(byte_W)
    is_inner_W = (index_W > 0) & (index_W < line.length - 1)
    is_beside_W = (is_comma_W[1:] & is_space_W[:-1]) | (is_space_W[1:] & is_comma_W[:-1])
    return _Marks(
        are_none=is_ascii & ~jnp.any(is_one_of(byte_W, b"$\\~`")),
        allow_number=is_ascii & ~jnp.any(is_dollar_W & is_inner_W) & ~jnp.any(is_one_of(byte_W, b"~`")),
        has_comma_at_space=jnp.any(is_beside_W),
    )


def _extract(row: Row, start: Int[Array, ""], end: Int[Array, ""]) -> AnswerLine:
    index_W = jnp.arange(MAX_LENGTH)
    byte_W = window(row.byte_U, start, MAX_LENGTH)
    is_non_space_W = (index_W < end - start) & ~is_whitespace(byte_W)
    length = jnp.max(jnp.where(is_non_space_W, index_W + 1, 0))
    return AnswerLine(jnp.where(index_W < length, byte_W, 0), length, end - start <= MAX_LENGTH)


@bundle
class _OptionLetter:
    """The option that an answer begins with.

    Attributes:
        index: 1 for `A`, `(A)`, `A: 45`, `A. 45`, ..., 2 for B, up to J; 0 if it is not an option.
        has_text: whether there is more than the letter, its brackets and a colon.
        is_single: whether nothing behind the letter can be another candidate: no text, or one without letters.
    """

    index: Int[Array, ""]
    has_text: Bool[Array, ""]
    is_single: Bool[Array, ""]


def _option(line: AnswerLine) -> _OptionLetter:
    first, second, third, fourth = line.byte_W[0], line.byte_W[1], line.byte_W[2], line.byte_W[3]

    def ends_at(index: int) -> Bool[Array, ""]:
        return line.length == index

    is_bare = ends_at(1) | is_one_of(second, b":)") | (second == ord(".")) & (ends_at(2) | is_whitespace(third))
    is_in_brackets = (first == ord("(")) & (third == ord(")"))
    is_in_brackets &= ends_at(3) | is_one_of(fourth, b":.") | is_whitespace(fourth)
    letter = jnp.where(is_in_brackets, second, first)
    # In lower case a letter with a text may be something else: a:b is a ratio.
    has_text = jnp.where(is_in_brackets, ~ends_at(3), line.length > 2)
    is_option = is_between(fold(letter), b"a", _LAST_OPTION) & (is_in_brackets | is_bare)
    is_option &= ~has_text | is_between(letter, b"A", b"J")
    num_letters = jnp.sum(is_letter(line.byte_W))
    index = jnp.where(is_option, fold(letter).astype(jnp.int32) - ord("a") + 1, 0)
    is_single = (num_letters == 1) & ~jnp.any(is_one_of(line.byte_W, b",;/&|"))
    return _OptionLetter(index, has_text, is_single)
