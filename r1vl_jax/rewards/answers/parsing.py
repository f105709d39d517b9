"""The kind of answer that a text is. A text is read on its own, gold answer and prediction alike."""

import functools
import re

from r1vl_jax.rewards.answers import numbers, units
from r1vl_jax.rewards.answers.dates import parse_date, parse_time
from r1vl_jax.rewards.answers.kinds import Answer, Items, Named, Option, Quantity, Range, Words
from r1vl_jax.rewards.answers.mathematics import is_mathematics, variables
from r1vl_jax.rewards.answers.typography import MAX_LENGTH, plain_text

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
    # Behind a variable, a unit's symbol could be another; a range with a unit is text.
    is_constant = found and is_mathematics(found[1]) and not variables(found[1]) and not _range(found[1])
    if found and is_constant and (unit := units.parse_unit(found[2])):
        return Quantity(found[1], unit)
    return Quantity(text) if is_mathematics(text) or numbers.is_beyond_bounds(text) else None


def _words(text: str) -> Words:
    return Words(tuple(re.sub(r"[,;](?=\s|$)", "", text).casefold().split()))
