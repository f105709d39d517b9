"""Records to arrays, on the host: what the reward kernels compare completions with."""

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

_NO_VALUE = np.zeros(numbers.NUM_DIGITS, np.int32)


def pack(
    records: Sequence[Mapping[str, Any]],
    *,
    semantics: str,
    max_groups: int | None = None,
    max_alternatives: int | None = None,
    max_length: int | None = None,
) -> tuple[KeySteps, Answers]:
    """The key steps and answers of records, one row each, as the kernels take them.

    Args:
        records: as for `rewards.score`.
        semantics: "paper" or "released"; it decides how spellings are normalised.
        max_groups, max_alternatives, max_length: groups of a question, spellings of a group and bytes of a spelling, to
            which arrays are padded, so that batches share one compiled program; None: as many as these records have,
            rounded up to a power of two so that few sizes occur.

    Raises:
        ValueError: records without answer or key steps, or with more than the padding holds.
    """
    spellings = [
        [[_spelling(spelling, semantics) for spelling in strings.spellings_of(group)] for group in groups]
        for groups in (key_step_groups(record, row) for row, record in enumerate(records))
    ]
    sizes = (
        _padded("max_groups", max_groups, [len(groups) for groups in spellings]),
        _padded("max_alternatives", max_alternatives, [len(group) for groups in spellings for group in groups]),
        _padded("max_length", max_length, [len(s or b"") for groups in spellings for group in groups for s in group]),
    )
    golds = [gold_answer(record, row) for row, record in enumerate(records)]
    return _key_steps(spellings, sizes), _answers(golds)


def _spelling(spelling: bytes, semantics: str) -> bytes | None:
    """What is looked for; None if it never matches."""
    if semantics == "paper":
        return normal_form(spelling.strip()) or None
    return spelling.lower()


def _padded(name: str, size: int | None, counts: list[int]) -> int:
    needed = max(counts, default=0)
    if size is not None and needed > size:
        raise ValueError(f"rewards.pack: expected {name}={size} at most, got {needed} in a record; raise {name}")
    return round_up(needed) if size is None else size


def round_up(size: int) -> int:
    """The next power of two."""
    return 1 << max(int(size) - 1, 0).bit_length()


def _key_steps(spellings: list[list[list[bytes | None]]], sizes: tuple[int, int, int]) -> KeySteps:
    byte_BRAL = np.zeros((len(spellings), *sizes), np.uint8)
    length_BRA = np.full((len(spellings), *sizes[:2]), -1, np.int32)
    for row, groups in enumerate(spellings):
        for place, group in enumerate(groups):
            for alternative, spelling in enumerate(group):
                if spelling is not None:
                    length_BRA[row, place, alternative] = len(spelling)
                    byte_BRAL[row, place, alternative, : len(spelling)] = np.frombuffer(spelling, np.uint8)
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
        top_BN=np.array([_NO_VALUE if value is None else value[1] for value in values], np.int32),
        bottom_BN=np.array([_NO_VALUE if value is None else value[2] for value in values], np.int32),
        is_letters_B=np.array([answers.is_letters(form) for form in forms]),
        option_B=np.array([0 if option is None else ord(option) - ord("a") + 1 for option in options], np.int32),
    )


def _digits(value: Fraction | None) -> tuple[bool, np.ndarray, np.ndarray] | None:
    """Sign, top and bottom of a value that fits; otherwise None, and the row stays undecided."""
    if value is None:
        return None
    top, bottom = numbers.to_digits(abs(value.numerator)), numbers.to_digits(value.denominator)
    return None if top is None or bottom is None else (value < 0, top, bottom)
