"""The yes/no rule: a response says the one word and not the other. HallusionBench, MME."""

import re

from r1vl_jax.evaluation.benchmarks.outcome import Outcome, Row, outcome, unreadable
from r1vl_jax.evaluation.benchmarks.rules import Rules

_MARKS = ';/[]"{}()=+\\_-><@`,?!'  # not * : ' #, so that **Yes** is no word
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")


def infer_yes_no(response: str) -> str | None:
    """ "yes" or "no", whichever of the words a response has; None for both or neither."""
    words = set(_without_punctuation(response.lower()).split())
    said = [word for word in ("yes", "no") if word in words]
    return said[0] if len(said) == 1 else None


def score_yes_no(row: Row, text: str, rules: Rules) -> Outcome:
    """The word that a response says against the word in `answer`."""
    said = infer_yes_no(text)
    return unreadable("neither yes nor no") if said is None else outcome(said, said == row["answer"].strip().lower())


def _without_punctuation(text: str) -> str:
    """A mark that touches a space somewhere is deleted everywhere, and any other but a full stop separates words."""
    deletes_all = _DIGIT_COMMA_DIGIT.search(text) is not None
    result = text
    for mark in _MARKS:
        is_deleted = deletes_all or f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if is_deleted else " ")
    return result.replace(".", "")
