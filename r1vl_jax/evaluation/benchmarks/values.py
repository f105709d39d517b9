r"""What an expression in plain symbols or LaTeX is worth, by a parser that knows arithmetic, roots and pi only."""

import math
import re

from r1vl_jax.data.solutions import arithmetic

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
