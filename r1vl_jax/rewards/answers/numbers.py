r"""Exact numbers in plain text: integers, decimals, fractions, mixed numbers, powers of ten, percentages, words."""

import re
from fractions import Fraction

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])|[0-9]+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)"
_NUMBER = re.compile(
    rf"(?:(?:(?P<whole>[0-9]+)(?:\s+|(?=\\frac)|\s*\+\s*(?=\\frac)))?"
    rf"(?:\\frac\s*(?:\{{\s*(?P<top>[+-]?\s*[0-9]+)\s*\}}|(?P<top1>[0-9]))\s*"
    rf"(?:\{{\s*(?P<bottom>[+-]?\s*[0-9]+)\s*\}}|(?P<bottom1>[0-9]))"
    rf"|(?P<a>[0-9]+)\s*/\s*(?P<b>[0-9]+)(?![0-9.]))"
    rf"|(?P<decimal>{_DECIMAL})(?:\s*(?:\*|\\times|\\cdot|[xX])\s*10\s*\^\s*(?:\{{\s*(?P<power>[+-]?\s*[0-9]+)\s*\}}"
    rf"|(?P<power1>[+-]?[0-9]+))|[eE](?P<exponent>[+-]?[0-9]+)(?![0-9A-Za-z]))?"
    rf"|(?P<word>zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)(?![^\W_]))",
    re.IGNORECASE,
)
_SIGN = re.compile(r"[+-]\s*|(?:minus|negative)\s+", re.IGNORECASE)
_WORDS = tuple("zero one two three four five six seven eight nine ten eleven twelve".split())
_FACTOR = re.compile(
    r"\s*(?P<percent>%|per\s?cents?(?![A-Za-z])|pct\.?(?![A-Za-z]))|(?P<kilo>k)(?![A-Za-z/^])"
    r"|\s+(?P<factor>hundred|thousand|million|billion|trillion|dozen|lakh|crore|mn|bn|tn)s?(?![A-Za-z])"
    r"|\s*(?P<chinese>[百千万亿])(?![百千万亿])",
    re.IGNORECASE,
)
_FACTORS = {"lakh": 10**5, "crore": 10**7, "mn": 10**6, "bn": 10**9, "tn": 10**12}
_FACTORS |= {"百": 100, "千": 1_000, "万": 10**4, "亿": 10**8}
_FACTORS |= {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
NUMBER_WORDS = frozenset(_WORDS)
MAX_EXPONENT = 100


def match_number(text: str, position: int = 0) -> tuple[Fraction, int] | None:
    """The value of the number at a position, its sign and factors included, and where it ends.

    None if there is no number, or only one that is not to be computed: it divides by zero, or its exponent is beyond
    100.
    """
    sign = _SIGN.match(text, position)
    found = _NUMBER.match(text, sign.end() if sign else position)
    if found is None or (value := _value(found)) is None:
        return None
    end = found.end()
    while factor := _FACTOR.match(text, end):
        if factor["kilo"] == "K":  # kelvin
            break
        value = value / 100 if factor["percent"] else value * _factor(factor)
        end = factor.end()
        if factor["percent"]:
            break
    return (-value if sign and not sign[0].startswith("+") else value), end


def is_beyond_bounds(text: str) -> bool:
    """Whether a text is one number, but one that is not to be computed."""
    found = _NUMBER.fullmatch(text)
    return found is not None and _value(found) is None


def to_text(value: Fraction) -> str:
    """A value as an integer or a/b."""
    return str(value) if len(str(value)) <= 80 else f"{str(value)[:80]}..."


def _factor(factor: re.Match[str]) -> int:
    return 1_000 if factor["kilo"] else _FACTORS[(factor["factor"] or factor["chinese"]).lower()]


def _value(found: re.Match[str]) -> Fraction | None:
    if found["word"]:
        return Fraction(_WORDS.index(found["word"].lower()))
    if found["decimal"]:
        exponent = int((found["power"] or found["power1"] or found["exponent"] or "0").replace(" ", ""))
        if abs(exponent) > MAX_EXPONENT:
            return None
        return Fraction(found["decimal"].replace(",", "").rstrip(".")) * Fraction(10) ** exponent
    top = _integer(found["top"] or found["top1"] or found["a"])
    bottom = _integer(found["bottom"] or found["bottom1"] or found["b"])
    if bottom == 0:
        return None
    return int(found["whole"] or 0) + Fraction(top, bottom)


def _integer(digits: str) -> int:
    return int(digits.replace(" ", ""))
