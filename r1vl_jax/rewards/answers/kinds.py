"""The kinds of answers, and the kind that a text is.

    option       B   (B)   B: 45                      number       12   -1,234.5   3/4   1 1/2   50%   1.2e3   5 million
    words        Yes   New York   Figure 2A           quantity     3 km   $5   90°   5 apples
    list         1, 2   {1, 2}   red and blue         time, date   1:30 pm   March 5, 2020
    pair         (1, 2)                               range        10-12
    interval     [2, 5)                               named        x = 5
    mathematics  2x+3   \\sqrt{3}   x > 5             rejected     an answer with two candidates

A text is read on its own, gold answer and prediction alike; `compare` says which kinds can be equal.
"""

import functools
import re
from dataclasses import dataclass
from fractions import Fraction

from r1vl_jax.rewards.answers import numbers, units
from r1vl_jax.rewards.answers.dates import Date, Time, parse_date, parse_time
from r1vl_jax.rewards.answers.typography import MAX_LENGTH, plain_text
from r1vl_jax.rewards.answers.units import Unit


@dataclass(frozen=True)
class Option:
    """A letter of a multiple-choice question, A to J, and the text behind it, if any."""

    letter: str
    text: str = ""
    kind = "option"

    def __str__(self) -> str:
        return f"{self.letter}: {self.text}" if self.text else self.letter


@dataclass(frozen=True)
class Quantity:
    """A number or a mathematical expression, and its unit.

    Attributes:
        value: the exact value; an expression, as LaTeX, where it is not a plain number.
        unit: of measurement, or currency.
        noun: what is counted (`apple`), where it is no unit.
    """

    value: Fraction | str
    unit: Unit = units.DIMENSIONLESS
    noun: str = ""

    @property
    def kind(self) -> str:
        if self.unit or self.noun:
            return "number with unit"
        return "mathematics" if isinstance(self.value, str) else "number"

    def __str__(self) -> str:
        value = self.value if isinstance(self.value, str) else numbers.to_text(self.value)
        return " ".join(part for part in (value, units.to_text(self.unit), self.noun) if part)


@dataclass(frozen=True)
class Items:
    """Several answers.

    Attributes:
        brackets: "" for a list in any order; "()" for a pair or tuple; "[]", "[)", "(]" for an interval or, with other
            than two items, a tuple; "or" for alternatives.
    """

    items: "tuple[Answer, ...]"
    brackets: str = ""

    @property
    def kind(self) -> str:
        if self.brackets == "" and all(isinstance(item, Option) for item in self.items):
            return "option"
        return "interval" if self.brackets in ("[]", "[)", "(]") and len(self.items) == 2 else "list"

    def __str__(self) -> str:
        if self.brackets == "or":
            return " or ".join(map(str, self.items))
        opening, closing = self.brackets or "{}"
        return opening + ", ".join(map(str, self.items)) + closing


@dataclass(frozen=True)
class Range:
    """Two bare numbers with a dash between them: `10-12`."""

    low: Fraction
    high: Fraction
    kind = "range"

    def __str__(self) -> str:
        return f"{self.low}-{self.high}"


@dataclass(frozen=True)
class Named:
    """`name = value`."""

    name: str
    value: "Answer"
    kind = "name = value"

    def __str__(self) -> str:
        return f"{self.name} = {self.value}"


@dataclass(frozen=True)
class Words:
    """Any other text: its words, case-folded."""

    words: tuple[str, ...]

    @property
    def kind(self) -> str:
        return "yes/no" if self.words in _YES_NO else "words"

    def __str__(self) -> str:
        return " ".join(self.words)


Answer = Option | Quantity | Items | Range | Named | Time | Date | Words

_YES_NO = {("yes",), ("no",), ("true",), ("false",), ("是",), ("否",), ("不是",)}

_BARE_OPTION = re.compile(
    r"([A-Ja-j])(?:\s?[).:])?|\(\s*([A-Ja-j])\s*\)\s?[:.]?|\[\s*([A-Ja-j])\s*\]|\{\s*([A-Ja-j])\s*\}"
)
_OPTION_WITH_TEXT = re.compile(
    r"(?:([A-J])\s?(?::\s*|\)\s*|\.\s+)|\(([A-Ja-j])\)\s*[:.]?\s*|([a-j])(?::\s+|\)\s*|\.\s+))"
    r"(?!(?:or|and)\b)([^\s,;/&].*)",
    re.DOTALL,
)
_OPTION_SET = re.compile(r"A?B?C?D?E?F?G?H?I?J?")
_RANGE_DASH = re.compile(r"\s*(?:-|\bto\b)\s*")
_NAME = re.compile(
    r"((?:\\[A-Za-z]+|[A-Za-z][A-Za-z]{0,11})(?:_(?:\{\w+\}|\w))?'*(?:\s?\(\s*[A-Za-z0-9]+\s*\))?)\s*=(?!=)\s*([^=]+)"
)
_OPENING, _CLOSING = "([{", ")]}"
_AND = re.compile(r"\s*[;、&]\s*|\s+and\s+")
_ANY_COMMA = re.compile(",")
_BARE_COMMA = re.compile(r",(?!\s|[0-9]{3}(?![0-9]))")  # one that groups no thousands, without a space behind it
_COMMA = re.compile(rf"{_BARE_COMMA.pattern}|,(?=\s)")
_MAX_BRACKETS = 32

_NOUN = re.compile(r"[^\W\d_]{2,24}")
_NO_NOUNS = (
    frozenset(
        "or and not no nor but to of by than in on at as is are was be plus minus times over under per out"
        " more less fewer higher lower greater smaller larger bigger longer shorter older younger taller heavier"
        " increase decrease increased decreased rise fall drop gain loss off up down above below before after ago"
        " approximately approx about around roughly nearly almost maybe perhaps possibly probably squared cubed half"
        " dozen hundred thousand million billion trillion percent percentage percentages points fold double triple"
        " each am pm".split()
    )
    | numbers.NUMBER_WORDS
)
_UNIT_BEHIND = re.compile(r"(.*[0-9)}\]°])\s+([^\s\\{}()=<>]+(?:\s[^\s\\{}()=<>]+)?(?:\s?\^\s?\{?-?\d\}?)?)")
_COMMAND = re.compile(r"\\(?:[A-Za-z]+|.)")
FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp sqrt pi max min lim mod gcd lcm"
    " det".split()
)
_SHORT_WORDS = frozenset(
    "am an and any are as at be but by can did do few for go had has he her him his how if in is it its may me my"
    " nor not no now of off on one or our out per see she so ten the to too two up us via was we who why yes yet"
    " you".split()
)
_NO_MATHEMATICS = re.compile(
    r"[^ -~]|\\boxed|\.(?![0-9])|\\(?:ldots|dots|cdots|approx|sim)(?![A-Za-z])|[\"'?`;:#$@~]|(?<!\\)[%&]"
)
_FUNCTION = re.compile(rf"(?<![A-Za-z])(?:{'|'.join(sorted(FUNCTIONS))})(?![A-Za-z])")
_LABEL = re.compile(r"[A-Za-z][0-9]|[A-Za-z0-9]\s+[0-9]")  # Q3, A 4, 3 2020
_LETTER_RUN = re.compile(r"[A-Za-z]{2,}")


def parse_answer(text: str) -> Answer:
    """The answer that a text is, as `plain_text` has it."""
    return _parse(plain_text(text))


@functools.lru_cache(maxsize=8_192)
def _parse(text: str) -> Answer:
    if len(text) > MAX_LENGTH:
        return _words(text)
    for parse in (_option, parse_time, _number, parse_date, _range, _items, _named, _mathematics):
        if (answer := parse(text)) is not None:
            return answer
    return _words(text)


def _option(text: str) -> Answer | None:
    if bare := _BARE_OPTION.fullmatch(text):
        return Option(next(filter(None, bare.groups())).upper())
    if found := _OPTION_WITH_TEXT.fullmatch(text):
        letter = found[1] or found[2] or found[3]
        return None if _BARE_OPTION.fullmatch(found[4]) else Option(letter.upper(), plain_text(found[4]))
    if len(text) > 1 and _OPTION_SET.fullmatch(text):
        return Items(tuple(map(Option, text)))
    return None


def _number(text: str) -> Quantity | None:
    """A number, with a currency in front of it, or one unit or noun behind it."""
    sign = re.match(r"-\s*(?=[^\d\s.\\])", text)
    start = sign.end() if sign else 0
    mark = units.CURRENCY_BEFORE.match(text, start)
    found = numbers.match_number(text, mark.end() if mark else 0)
    if found is None or (sign and not mark):
        return None
    value, end = found
    value = -value if sign else value
    rest = text[end:]
    if mark:
        unit = units.currency(mark[0])
        return Quantity(value, unit) if not rest.strip() or units.parse_unit(rest.strip()) == unit else None
    if not rest.strip():
        return Quantity(value)
    is_attached = not rest[0].isspace()
    if unit := units.parse_unit(rest.strip(), is_attached=is_attached):
        return Quantity(value, unit)
    noun = rest.strip().casefold()
    if _NOUN.fullmatch(noun) and noun not in _NO_NOUNS and not (is_attached and noun[0].isascii()):
        return Quantity(value, noun=_singular(noun))
    return None


def _singular(noun: str) -> str:
    if len(noun) > 4 and noun.endswith("ies"):
        return noun[:-3] + "y"
    if re.search(r"(?:s|x|z|ch|sh)es$", noun):
        return noun[:-2]
    return noun[:-1] if len(noun) > 3 and noun.endswith("s") and not noun.endswith("ss") else noun


def _range(text: str) -> Range | None:
    low = numbers.match_number(text)
    dash = _RANGE_DASH.match(text, low[1]) if low else None
    high = numbers.match_number(text, dash.end()) if dash else None
    return Range(low[0], high[0]) if low and high and high[1] == len(text) else None


def _items(text: str) -> Answer | None:
    r"""A list, pair, tuple or interval; alternatives joined by "or"."""
    if sum(map(text.count, _OPENING)) > _MAX_BRACKETS:
        return None
    inner, brackets = _enclosed(text)
    alternatives = _split(inner, re.compile(r"\s+or\s+"))
    if len(alternatives) > 1 and not brackets:
        return _make_items(alternatives, "or")
    if brackets in ("()", "[]", "[)", "(]"):
        pieces = _split(inner, re.compile(r"[,;、]"))
        return _make_items(pieces, brackets) if len(pieces) > 1 else None
    is_grouped = brackets != "{}" and not _BARE_COMMA.search(inner)
    comma = _COMMA if is_grouped else _ANY_COMMA
    pieces = [piece for part in _split(inner, _AND) for piece in _split(part, comma)]
    # "1, 2, and 3" has an empty piece before "and 3".
    pieces = [piece.removeprefix("and ").strip() for piece in pieces]
    return _make_items([piece for piece in pieces if piece], "") if len(pieces) > 1 else None


def _make_items(pieces: list[str], brackets: str) -> Answer | None:
    if not all(piece.strip() for piece in pieces):
        return None
    items = tuple(parse_answer(piece) for piece in pieces)
    if isinstance(items[0], Named) and len(items) > 1 and not any(isinstance(item, Named) for item in items[1:]):
        return Named(items[0].name, Items((items[0].value, *items[1:]), brackets))  # x = 1, 2
    return Items(items, brackets)


def _enclosed(text: str) -> tuple[str, str]:
    """What one pair of brackets encloses, and the pair; the text and "" if none encloses the whole text."""
    text = text.removeprefix("\\") if text.startswith("\\{") else text
    if text.endswith("\\}"):
        text = text[:-2] + "}"
    if len(text) < 2 or text[0] not in _OPENING or text[-1] not in _CLOSING:
        return text, ""
    depth = 0
    for index, character in enumerate(text):
        depth += (character in _OPENING) - (character in _CLOSING)
        if depth == 0 and index < len(text) - 1:
            return text, ""
    if (text[0] == "{") != (text[-1] == "}"):
        return text, ""
    return (text[1:-1].strip(), text[0] + text[-1]) if depth == 0 else (text, "")


def _split(text: str, separator: re.Pattern[str]) -> list[str]:
    """Splits a text at the separators that are outside all brackets."""
    pieces, depth, start, position = [], 0, 0, 0
    while position < len(text):
        character = text[position]
        depth += (character in _OPENING) - (character in _CLOSING)
        found = separator.match(text, position) if depth == 0 else None
        if found and found.end() > position:
            pieces.append(text[start:position].strip())
            start = position = found.end()
        else:
            position += 1
    return [*pieces, text[start:].strip()]


def _named(text: str) -> Named | None:
    found = _NAME.fullmatch(text)
    if found is None:
        return None
    name = re.sub(r"[\s_{}]", "", found[1])
    return Named(name, parse_answer(found[2]))


def _mathematics(text: str) -> Quantity | None:
    """An expression that is mathematics to its last character, and the unit behind it."""
    found = _UNIT_BEHIND.fullmatch(text)
    if found and _is_constant(found[1]) and (unit := units.parse_unit(found[2])):
        return Quantity(found[1], unit)
    is_mathematics = text == "pi" or numbers.is_beyond_bounds(text) or _is_mathematics(text)
    return Quantity(text) if is_mathematics else None


def _is_constant(text: str) -> bool:
    """Whether an expression has no variable, which a unit's symbol behind it could be, and is no range."""
    return _is_mathematics(text) and not re.search("[A-Za-z]", _COMMAND.sub("", text)) and not _range(text)


def _is_mathematics(text: str) -> bool:
    if not text or _NO_MATHEMATICS.search(text):
        return False
    rest = _FUNCTION.sub("@", _COMMAND.sub("@", text))
    if _LABEL.search(rest):
        return False
    runs = _LETTER_RUN.findall(rest)
    if any(len(run) > 3 or run.lower() in _SHORT_WORDS or units.parse_unit(run) for run in runs):
        return False
    has_operator = "\\" in text or bool(re.search(r"[+*/^=<>|-]", text))
    return has_operator or (not runs and bool(re.search("[0-9A-Za-z]", rest)))


def _words(text: str) -> Words:
    return Words(tuple(re.sub(r"[,;](?=\s|$)", "", text).casefold().split()))
