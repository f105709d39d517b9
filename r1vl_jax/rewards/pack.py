"""Packs the gold answers and key steps of records into the arrays that the reward kernels take, on the host."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from r1vl_jax.rewards import answers, strings
from r1vl_jax.rewards.bundles import Answers, KeySteps
from r1vl_jax.rewards.kernels import numbers
from r1vl_jax.rewards.kernels.answers import MAX_LENGTH
from r1vl_jax.rewards.normal_form import normal_form
from r1vl_jax.rewards.records import gold_answer, key_step_groups

_ZERO_DIGITS = np.zeros(numbers.NUM_DIGITS, np.int32)


def pack(
    records: Sequence[Mapping[str, Any]],
    *,
    semantics: str,
    max_groups: int | None = None,
    max_alternatives: int | None = None,
    max_length: int | None = None,
) -> tuple[KeySteps, Answers]:
    """Key steps and gold answers of records, one row each.

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
    golds = [gold_answer(record, row) for row, record in enumerate(records)]
    return _key_steps(spellings, sizes), _answers(golds)


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


def _answers(golds: list[bytes]) -> Answers:
    forms = [normal_form(gold) for gold in golds]
    values = [_digits(answers.to_number(form)) for form in forms]
    options = [answers.to_option(gold) for gold in golds]
    form_BW = np.zeros((len(golds), MAX_LENGTH), np.uint8)
    for row, form in enumerate(forms):
        form_BW[row, : len(form)] = np.frombuffer(form[:MAX_LENGTH], np.uint8)
    return Answers(
        form_BW=form_BW,
        form_length_B=np.array([len(form) for form in forms], np.int32),
        is_number_B=np.array([value is not None for value in values]),
        is_negative_B=np.array([value is not None and value[0] for value in values]),
        numerator_BN=np.array([_ZERO_DIGITS if value is None else value[1] for value in values], np.int32),
        denominator_BN=np.array([_ZERO_DIGITS if value is None else value[2] for value in values], np.int32),
        is_letters_B=np.array([answers.is_letters(form) for form in forms]),
        option_B=np.array([0 if option is None else ord(option) - ord("a") + 1 for option in options], np.int32),
    )


def _digits(value: Fraction | None) -> tuple[bool, np.ndarray, np.ndarray] | None:
    """Sign, numerator and denominator; None if there is no value or it is too large, and the row is undecided then."""
    if value is None:
        return None
    numerator, denominator = numbers.to_digits(abs(value.numerator)), numbers.to_digits(value.denominator)
    return None if numerator is None or denominator is None else (value < 0, numerator, denominator)
