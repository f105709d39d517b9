"""The letter rule: which option of a multiple-choice question a response names. MMStar; MathVerse's choices."""

import re
from collections.abc import Collection, Mapping

from r1vl_jax.evaluation.benchmarks.outcome import Outcome, Row, outcome, unreadable
from r1vl_jax.evaluation.benchmarks.rules import Rules

_LETTERS = "ABCDEFGHIJ"
_SEPARATORS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_PHRASE = re.compile(r"answer\s+is\s*\**\s*([A-D])(?![^\W_])", re.IGNORECASE)
_REFUSALS = (
    "cannot determine the answer",
    "can't determine the answer",
    "unable to determine the answer",
    "can't process this file",
    "can't help with images of people",
    "without the image provided",
)


def infer_letter(response: str, options: Mapping[str, str], rules: Rules) -> str | None:
    """The option that a response names: by a single letter, by "answer is X", or by its text; None if by none.

    Args:
        options: letter -> text.
    """
    if any(refusal in response.lower().replace("’", "'") for refusal in _REFUSALS):
        return None
    named = _by_letter(response, options, rules.last_tokens)
    if named is None and rules.reads_phrase:
        named = _by_phrase(response, options)
    return named or _by_text(response.lower(), options, limits_length=rules.limits_length)


def score_options(row: Row, text: str, rules: Rules) -> Outcome:
    """MMStar: the option of the letter rule, with texts in the columns A to D, against the letter in `answer`."""
    options = {letter: row[letter].strip() for letter in _LETTERS if row.get(letter, "").strip()}
    return score_letter(row["answer"], text, options, rules)


def score_letter(gold: str, text: str, options: Mapping[str, str], rules: Rules) -> Outcome:
    """The option that a response names against a letter."""
    letter = infer_letter(text, options, rules)
    return unreadable("names no option") if letter is None else outcome(letter, letter == gold.strip().strip("()."))


def _by_letter(response: str, options: Collection[str], last_tokens: int | None) -> str | None:
    """The only letter among the tokens; it is where it occurs first."""
    tokens = response.translate(_SEPARATORS).split()
    letters = [letter for letter in options if letter in tokens]
    if len(letters) != 1 or (last_tokens is not None and tokens.index(letters[0]) < len(tokens) - last_tokens):
        return None
    return letters[0]


def _by_phrase(response: str, options: Collection[str]) -> str | None:
    found = _PHRASE.search(response)
    return found[1].upper() if found and found[1].upper() in options else None


def _by_text(response: str, options: Mapping[str, str], *, limits_length: bool) -> str | None:
    if limits_length and len(response) > 2 * sum(map(len, options.values())):
        return None
    named = [letter for letter, text in options.items() if text and text.lower() in response]
    return named[0] if len(named) == 1 else None
