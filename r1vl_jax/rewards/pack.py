"""Packs the gold answers and key steps of records into the arrays that the reward kernels take, on the host."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

from r1vl_jax.rewards import strings
from r1vl_jax.rewards.answers import parse_answer
from r1vl_jax.rewards.answers.kinds import Answer, Option, Quantity, Words
from r1vl_jax.rewards.bundles import Answers, KeySteps
from r1vl_jax.rewards.kernels import numbers
from r1vl_jax.rewards.kernels.answers import MAX_LENGTH
from r1vl_jax.rewards.normal_form import normal_form
from r1vl_jax.rewards.records import gold_answers, key_step_groups

# A text behind an option's letter that begins like an option itself, which the kernels would take it for.
_LIKE_OPTION = re.compile(r"\(?[A-J]\)?(?:[:.)\s]|$)", re.IGNORECASE)
_ZERO_DIGITS = np.zeros(numbers.NUM_DIGITS, np.int32)


def pack(
    records: Sequence[Mapping[str, Any]],
    *,
    semantics: str,
    max_groups: int | None = None,
    max_alternatives: int | None = None,
    max_length: int | None = None,
) -> tuple[KeySteps, Answers]:
    """Key steps and gold answers of records, one row each; of several gold answers the first.

    Args:
        records: as for `rewards.score`.
        semantics: "paper" or "released"; decides how spellings are normalised.
        max_groups, max_alternatives, max_length: sizes to pad to, in groups of a question, spellings of a group and
            bytes of a spelling, so that batches share one compiled program. None: what these records need, rounded up
            to a power of two.

    Raises:
        ValueError: a record without answer or key steps, or one that exceeds a given size.
    """
    spellings = [
        [[_spelling(spelling, semantics) for spelling in strings.group_spellings(group)] for group in groups]
        for groups in (key_step_groups(record, row) for row, record in enumerate(records))
    ]
    sizes = (
        _size("max_groups", max_groups, [len(groups) for groups in spellings]),
        _size("max_alternatives", max_alternatives, [len(group) for groups in spellings for group in groups]),
        _size("max_length", max_length, [len(s or b"") for groups in spellings for group in groups for s in group]),
    )
    golds = [gold_answers(record, row) for row, record in enumerate(records)]
    return _key_steps(spellings, sizes), _answers([first for first, *_ in golds], [len(each) > 1 for each in golds])


def _spelling(spelling: bytes, semantics: str) -> bytes | None:
    """The bytes to search for; None if the spelling never matches."""
    if semantics == "paper":
        return normal_form(spelling.strip()) or None
    return spelling.lower()


def _size(name: str, size: int | None, counts: list[int]) -> int:
    needed = max(counts, default=0)
    if size is not None and needed > size:
        raise ValueError(f"rewards.pack: expected {name}={size} at most, got {needed} in a record; raise {name}")
    return next_power_of_two(needed) if size is None else size


def next_power_of_two(size: int) -> int:
    """The next power of two."""
    return 1 << max(int(size) - 1, 0).bit_length()


def _key_steps(spellings: list[list[list[bytes | None]]], sizes: tuple[int, int, int]) -> KeySteps:
    byte_BRAL = np.zeros((len(spellings), *sizes), np.uint8)
    length_BRA = np.full((len(spellings), *sizes[:2]), -1, np.int32)
    for row, groups in enumerate(spellings):
        for index, group in enumerate(groups):
            for alternative, spelling in enumerate(group):
                if spelling is not None:
                    length_BRA[row, index, alternative] = len(spelling)
                    byte_BRAL[row, index, alternative, : len(spelling)] = np.frombuffer(spelling, np.uint8)
    return KeySteps(byte_BRAL, length_BRA, np.array([len(groups) for groups in spellings], np.int32))


def _answers(golds: list[bytes], have_others: list[bool]) -> Answers:
    forms = [normal_form(gold) for gold in golds]
    parsed = [parse_answer(strings.to_text(gold)) for gold in golds]
    values = [_digits(answer) for answer in parsed]
    are_words = [isinstance(answer, Words) and form.isalpha() for answer, form in zip(parsed, forms, strict=True)]
    form_BW = np.zeros((len(golds), MAX_LENGTH), np.uint8)
    for row, form in enumerate(forms):
        form_BW[row, : len(form)] = np.frombuffer(form[:MAX_LENGTH], np.uint8)
    return Answers(
        form_BW=form_BW,
        form_length_B=np.array([len(form) for form in forms], np.int32),
        form_decides_B=np.array(list(map(_form_decides, parsed, forms)), bool),
        is_number_B=np.array([value is not None for value in values]),
        is_negative_B=np.array([value is not None and value[0] for value in values]),
        numerator_BN=np.array([_ZERO_DIGITS if value is None else value[1] for value in values], np.int32),
        denominator_BN=np.array([_ZERO_DIGITS if value is None else value[2] for value in values], np.int32),
        is_word_B=np.array(are_words, bool),
        option_B=np.array([_option_index(answer) for answer in parsed], np.int32),
        option_has_text_B=np.array([isinstance(answer, Option) and bool(answer.text) for answer in parsed], bool),
        has_others_B=np.array(have_others, bool),
    )


def _is_number(answer: Answer) -> TypeGuard[Quantity]:
    return isinstance(answer, Quantity) and answer.kind == "number"


def _form_decides(answer: Answer, form: bytes) -> bool:
    """Whether a prediction of the same normal form, which case and spaces do not change, is the same answer."""
    if isinstance(answer, Option):
        return answer.text.isascii() and answer.text.replace(" ", "").isalnum()
    if isinstance(answer, Words):
        return form.replace(b" ", b"").isalnum() and " ".join(answer.words).encode() == form
    return _is_number(answer) and (form.isalpha() or not re.search(rb"[a-z$\\~*_`\"']", form))


def _option_index(answer: Answer) -> int:
    """1 for option A, 2 for B, ...; 0 for another kind, and for an option that the kernels leave undecided."""
    if not isinstance(answer, Option) or _LIKE_OPTION.match(answer.text):
        return 0
    return ord(answer.letter) - ord("A") + 1


def _digits(answer: Answer) -> tuple[bool, np.ndarray, np.ndarray] | None:
    """Sign, numerator and denominator; None if it is no number or too large, and the row is undecided then."""
    if not _is_number(answer) or isinstance(answer.value, str):
        return None
    value = answer.value
    numerator, denominator = numbers.to_digits(abs(value.numerator)), numbers.to_digits(value.denominator)
    return None if numerator is None or denominator is None else (value < 0, numerator, denominator)
