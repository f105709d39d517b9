"""Expressions of a worked solution: in plain symbols, and what they are worth."""

import ast
import functools
import math
import operator
import re

_MAX_LENGTH = 100  # characters of an expression that is computed
_COMMAND = re.compile(r"\\(?:left|right|[,;:! ])|\$|[€£¥₹]")
_UNIT = re.compile(
    r"\s?\\(?:text|mathrm)\{[^{}]*\}(?:\^\{?[23]\}?)?|\^\{?\\?circ\}?|°[CF]?"
    r"|(?<=\d)\s?(?!(?:times|plus|minus|divided|multiplied)\b)[A-Za-z]{2,12}(?:\s?[²³]|\^\{?[23]\}?)?(?=\s*(?:[-+*/×÷·)]|\\|$))"
)
_FRACTION = re.compile(
    r"(?P<number>(?<=\d)\s*)?\\[dt]?frac\s?(?:\{([^{}]*)\}|(\d))\s?(?:\{([^{}]*)\}|(\d))"
    r"(?P<factor>\s*(?=\\pi(?![A-Za-z])|π|\(|√|sqrt|(?![xX]\s*[\d(\\])[A-Za-z](?![A-Za-z])))?"
)
_ROOT = re.compile(r"\\?sqrt\s?\{([^{}]*)\}|√(\d+(?:\.\d+)?)")
_SUBSTITUTIONS = (
    (re.compile(r"\\pi(?![A-Za-z])|π"), "pi"),
    (re.compile(r"(?<![A-Za-z])pi\s+(?=[A-Za-z])"), "pi*"),
    (re.compile(r"\\(?:times|cdot)(?![A-Za-z])|[×·∙]|(?<=[\d)}])\s*[xX]\s*(?=[\d(\\])"), "*"),
    (re.compile(r"\b(?:times|multiplied by)\b"), "*"),
    (re.compile(r"\\div(?![A-Za-z])|÷|\bdivided by\b"), "/"),
    (re.compile(r"\bplus\b"), "+"),
    (re.compile(r"\bminus\b|[−–]"), "-"),
    (re.compile(r"\\?%"), "%"),
    (re.compile(r"(?<=\d)(?:,|\{,\})(?=\d{3}(?!\d))|\s+"), ""),
    (re.compile(r"\^\{(\w+)\}"), r"^\1"),
    (re.compile("²"), "^2"),
    (re.compile("³"), "^3"),
    (re.compile(r"\\(?=sin|cos|tan|log|ln)"), ""),
)
_SYMBOL = re.compile(
    r"(?:m?\s?(?:\\(?:angle|triangle)|[∠△])\s?)?(?:\\overline\{[A-Z]{1,3}\}|\\(?!pi)[a-z]+|[A-Z]{1,3}|[a-zθαβγφλω])"
    r"(?:_(?:\{[^{}]*\}|\w)|['’])*"
)
_NUMBER = re.compile(r"-?(?:\d+(?:\.\d+)?|\.\d+)%?")
_VALUE = re.compile(rf"-?(?:{_NUMBER.pattern}|\(?\d+\)?/\(?\d+\)?)?(?:\*?sqrt\(\d+\))?(?:\*?pi)?(?:/\d+)?")
_ARITHMETIC = re.compile(r"(?:[\d.+*/^()%-]|sqrt|pi)+")
_DECIMAL = re.compile(r"-?\d+(?:\.\d+)?")
_FUNCTIONS = re.compile(r"sqrt|sin|cos|tan|log|ln|pi")
_TRANSCENDENTAL = re.compile("sin|cos|tan|log|ln")
_OPERATION = re.compile(r"(?<=[\w)%])[-+*/^]|\d[A-Za-z(]|[a-z]\(|sin|cos|tan")
_OWN_NUMBER = re.compile(r"(?<![\^_\d.])\d")  # neither exponent nor index
_NUMERAL = re.compile(r"[\d.]+")
_MAX_DIGITS = 3  # numbers of one digit each, of which texts have all combinations
_LETTER = re.compile(r"[^\W\d]|\\")
_DIGIT = re.compile(r"\d")
_PRODUCT = re.compile(r"(?<=[\d)i])(?=\(|sqrt|pi)|(?<=\))(?=\d)")
_PLACES = re.compile(r"-?\d*(?:\.(\d+))?(%)?")
_ATOM = re.compile(r"\s*[\w.]*\s*")
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


@functools.lru_cache(maxsize=4_096)
def plain(expression: str) -> str:
    r"""An expression without units and spaces, in `+ - * / ^ ( ) sqrt pi`: `\frac{1}{2} \times 8` is `1/2*8`."""
    if _ARITHMETIC.fullmatch(text := expression.replace(" ", "")):
        return text
    text = _UNIT.sub("", _COMMAND.sub("", expression))
    for _ in range(3 if "{" in text or "√" in text or "frac" in text else 0):  # as deep as braces are read
        text = _ROOT.sub(lambda root: f"sqrt({root[1] or root[2]})", text)
        text = _FRACTION.sub(_quotient, text)
    for pattern, replacement in _SUBSTITUTIONS:
        text = pattern.sub(replacement, text)
    return text


def is_number(expression: str) -> bool:
    """Whether it is one number, with or without a unit."""
    return _NUMBER.fullmatch(plain(expression)) is not None


def is_symbol(expression: str) -> bool:
    r"""Whether it names a quantity: `x`, `AB`, `\angle ABC`, `r_1`."""
    return _SYMBOL.fullmatch(expression.strip(" $")) is not None


def is_value(expression: str) -> bool:
    r"""Whether it is the end of a computation: a number, a fraction of numbers, a multiple of a root or of pi."""
    text = plain(expression)
    if _VALUE.fullmatch(text) is None or _DIGIT.search(text) is None:
        return False
    return "/" not in text or not (value(text) or 0.5).is_integer()


def is_computation(expression: str) -> bool:
    """Whether it has an operation and a number that is neither exponent nor index."""
    text = plain(expression)
    return _OPERATION.search(text) is not None and _OWN_NUMBER.search(text) is not None


def has_symbols(expression: str) -> bool:
    """Whether it has quantities that are not known."""
    return _LETTER.search(_FUNCTIONS.sub("", plain(expression))) is not None


def has_only_digits(*expressions: str) -> bool:
    """Whether these have no more than three numbers, all of one digit, and no unknown: `5+3` and `8`, `7` and `3`."""
    numerals = _NUMERAL.findall(" ".join(map(plain, expressions)))
    is_short = len(numerals) <= _MAX_DIGITS and max(map(len, numerals), default=0) <= 1
    return is_short and not any(map(has_symbols, expressions))


def is_less(one: str, other: str) -> bool:
    values = value(plain(one)), value(plain(other))
    return values[0] is not None and values[1] is not None and values[0] < values[1]


def may_be_equal(one: str, other: str) -> bool:
    """Whether two expressions are equal up to rounding, or not both can be computed; percents count either way."""
    texts = plain(one), plain(other)
    if any(not _ARITHMETIC.fullmatch(text) for text in texts):
        return any(has_symbols(text) or _TRANSCENDENTAL.search(text) for text in texts)
    is_equal = _are_equal(texts, percent=0.01)
    return is_equal or ("%" in "".join(texts) and _are_equal(texts, percent=1.0))


def _are_equal(texts: tuple[str, str], *, percent: float) -> bool:
    left, right = (value(text if percent < 1 else text.replace("%", "")) for text in texts)
    return left is not None and right is not None and abs(left - right) <= _rounding(texts, (left, right), percent)


@functools.lru_cache(maxsize=4_096)
def value(text: str) -> float | None:
    """The value of plain arithmetic; None if it has none, or is too long or too large to compute."""
    if _DECIMAL.fullmatch(text):
        return float(text)
    text = _PRODUCT.sub("*", text.replace("%", "/100"))
    if len(text) > _MAX_LENGTH:
        return None
    try:
        return _evaluate(ast.parse(text.replace("^", "**"), mode="eval").body)
    except (SyntaxError, ValueError, ArithmeticError, MemoryError, RecursionError):
        return None


def _evaluate(node: ast.expr) -> float:
    match node:
        case ast.Constant(int() | float() as number):
            return float(number)
        case ast.Name("pi"):
            return math.pi
        case ast.UnaryOp(ast.USub(), operand):
            return -_evaluate(operand)
        case ast.Call(ast.Name("sqrt"), [argument]):
            return math.sqrt(_evaluate(argument))
        case ast.BinOp(left, ast.Pow(), right):
            return math.pow(_evaluate(left), _evaluate(right))
        case ast.BinOp(left, operation, right) if type(operation) in _OPERATORS:
            return _OPERATORS[type(operation)](_evaluate(left), _evaluate(right))
    raise ValueError("no arithmetic")


def _rounding(texts: tuple[str, str], values: tuple[float, float], percent: float) -> float:
    """How far two sides may differ because one of them is a rounded number."""
    numbers = [_PLACES.fullmatch(text) for text in texts]
    places = [
        (1.0 if number[1] else 0.5) * 10.0 ** -len(number[1] or "") * (percent if number[2] else 1.0)
        for number in numbers
        if number
    ]
    return min(places, default=0.0) + 1e-9 * max(1.0, *map(abs, values))


def _quotient(fraction: re.Match[str]) -> str:
    """Behind a number, where it may be the rest of a mixed one, in parentheses, which are no value."""
    parts = (fraction[2] or fraction[3] or "", fraction[4] or fraction[5] or "")  # braces may be empty
    text = "/".join(map(_in_parentheses, parts))
    text = text if fraction["number"] is None else f"({text})"
    return text if fraction["factor"] is None else f"{text}*"


def _in_parentheses(text: str) -> str:
    return text if _ATOM.fullmatch(text) else f"({text})"
