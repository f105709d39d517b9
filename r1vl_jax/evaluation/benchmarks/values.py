"""What a cell holds, a list of texts, and what an expression is worth, by a parser of arithmetic, roots and pi."""

import math
import re

from r1vl_jax.data.solutions import arithmetic
from r1vl_jax.data.sources.literals import parse_list

_MAX_LENGTH = 100  # characters
_ROOT = re.compile(r"\\sqrt\s*\[(\d{1,2})\]\s*\{([^{}]{1,40})\}")
_KNOWN_WORDS = re.compile(r"\\?(?:sqrt|pi)(?![A-Za-z])|\\(?:[dt]?frac|cdot|times|div|left|right)(?![A-Za-z])")
_LETTERS = re.compile(r"[^\W\d_]{2}|\d\s*[^\W\d_](?!\d)")  # a unit or a product of quantities


def value_of(text: str) -> float | None:
    r"""The value of a number or of arithmetic, such as `\frac12`, `2\pi`, `\sqrt[3]{8}`; None of anything else.

    A text with units or letters has none, nor has one that is longer than 100 characters or not finite.
    """
    if len(text) > _MAX_LENGTH or _LETTERS.search(_KNOWN_WORDS.sub(" ", text.replace("π", r"\pi "))):
        return None
    value = arithmetic.value(arithmetic.plain(_ROOT.sub(r"((\2)^(1/\1))", text)))
    return value if value is not None and math.isfinite(value) else None


def texts_of(cell: str) -> list[str]:
    """The texts of a list that stands in a cell; none of another cell."""
    value = parse_list(cell)
    return [str(each) for each in value] if isinstance(value, list) else []
