"""The kind of answer that a text is. A text is read on its own, gold answer and prediction alike."""

import functools
import itertools
import re
from fractions import Fraction
from typing import TypeGuard

from r1vl_jax.rewards.answers import numbers, units
from r1vl_jax.rewards.answers.dates import parse_date, parse_time
from r1vl_jax.rewards.answers.kinds import Answer, Items, Named, Option, Quantity, Range, Words
from r1vl_jax.rewards.answers.mathematics import GREEK_LETTERS, is_mathematics, variables
from r1vl_jax.rewards.answers.typography import MAX_LENGTH, plain_text

_BARE_OPTION = re.compile(
    r"([A-Ja-j])(?:\s?[).:])?|\(\s*([A-Ja-j])\s*\)\s?[:.]?|\[\s*([A-Ja-j])\s*\]|\{\s*([A-Ja-j])\s*\}"
)
_OPTION_WITH_TEXT = re.compile(
    r"(?:([A-J])\s?(?::\s*|\)\s*|\.(?:\s+|(?=[0-9])))|\(([A-Ja-j])\)\s*[:.]?\s*|([a-j])(?::\s+|\)\s*|\.\s+))"
    r"(?!(?:or|and)\b|[A-Z]\.)([^\s,;/&].*)",
    re.DOTALL,
)
_OPTION_SET = re.compile(r"A?B?C?D?E?F?G?H?I?J?")
_DIGITS_AT_BOTH_ENDS = re.compile(r"[-+.]?[0-9].*[0-9}]", re.DOTALL)
_RANGE_DASH = re.compile(r"\s*(?:-|\bto\b)\s*")
_NAME = re.compile(
    r"((?:\\(?:angle|triangle|Delta|delta|overline|vec|hat|bar)(?![A-Za-z])\s*)?"
    r"(?:\\(?:" + "|".join(sorted(GREEK_LETTERS)) + r")(?![A-Za-z])|\{?[A-Za-z]{1,12}[0-9]?\}?)"
    r"(?:\s?_\s?(?:\{[^{}]{1,12}\}|\w))?'*(?:\s?\(\s*[^()=]{1,12}\s*\))?)\s*(?:=(?!=)|\\in(?![A-Za-z]))\s*([^=]+)"
)
_GUESSES = frozenset("no yes or if is so it probably likely answer option choice true".split())
_OPENING, _CLOSING = "([{", ")]}"
_AND = re.compile(r"\s*[;、]\s*|\s+(?:and|&)\s+|(?<=[^\x00-\x7f])[和与及](?=[^\x00-\x7f])")
_ANY_COMMA = re.compile(",")
_BARE_COMMA = re.compile(r",(?!\s|[0-9]{3}(?![0-9]))")  # one that groups no thousands, without a space behind it
_COMMA = re.compile(rf"{_BARE_COMMA.pattern}|,(?=\s)")
_MAX_DEPTH = 4  # of brackets within brackets
_PLUS_MINUS = re.compile(r"\\pm\s*((?:[0-9.]+|\\(?:sqrt|frac)|[{}\[\]A-Za-z/])+)")

# What may be counted: plurals, and behind 1 a singular; not words that change the number, nor guesses.
_PLURAL = re.compile(r"[a-z]{2,24}s|people|men|women|children|feet|geese|mice|teeth|fish|sheep|deer")
_SINGULAR = re.compile(r"[a-z]{3,24}(?<!er)(?<!ly)(?<!ing)(?<!ed)(?<!ish)(?<!est)(?<!th)")
_CLASSIFIER = re.compile(r"[个個只条本张辆位人次件块颗棵头支朵台名家岁][\u4e00-\u9fff]{0,4}")
_NO_CLASSIFIED = re.compile("[左右上下不或半多余以非]")
_NOT_COUNTED = frozenset(
    "millones cientos menos alternatives times less plus minus points others pairs couples fois yes us is as was has"
    " does this its his versus perhaps"
    " sometimes always"
    " thousands millions billions trillions hundreds dozens tens ones twos threes percents percentages halves thirds"
    " quarters fourths fifths sixths sevenths eighths ninths tenths hundredths thousandths guesses losses gains"
    " decreases increases rises falls drops multiples folds sorts roots squares cubes lots pluses minuses odds"
    " and not nor but than are plus over under per out more fewer off down above below before after ago approximately"
    " approx about around almost maybe possibly squared cubed half dozen hundred thousand million billion trillion"
    " percent percentage point fold double triple each wrong false incorrect untrue nope never guess growth decline"
    " deficit extra pct mod root factorial square cube times increase decrease rise fall drop gain loss".split()
)
_SUBSCRIPT = re.compile(r"(?<=[A-Za-z])_\{?([0-9]+)\}?")  # H_2O is H2O
_UNIT_BEHIND = re.compile(r"(.*(?:[0-9)}\]°]|\\pi))\s+([^\s\\{}()=<>]+(?:\s[^\s\\{}()=<>]+)?(?:\s?\^\s?\{?-?\d\}?)?)")


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
    rest = re.sub(r"^\(\s*([^()]+?)\s*\)$", r"\1", rest.strip())  # 12 (cm)
    if not rest.startswith("-") and (unit := units.parse_unit(rest, is_attached=is_attached)):
        may_be_variable = is_attached and re.match(r"[A-Za-z](?![A-Za-z])", rest) is not None
        return Quantity(value, unit, may_be_variable=may_be_variable)
    noun = rest.casefold()
    return Quantity(value, noun=_singular(noun)) if _is_counted(noun, value, is_attached) else None


def _is_counted(noun: str, value: Fraction, is_attached: bool) -> bool:
    """Whether a word behind a number says what is counted, and nothing about the number."""
    if _CLASSIFIER.fullmatch(noun):
        return not _NO_CLASSIFIED.search(noun)
    if is_attached or noun in _NOT_COUNTED or noun in numbers.NUMBER_WORDS:
        return False
    return bool(_PLURAL.fullmatch(noun)) or (abs(value) == 1 and _SINGULAR.fullmatch(noun) is not None)


def _singular(noun: str) -> str:
    if len(noun) > 4 and noun.endswith("ies"):
        return noun[:-3] + "y"
    if re.search(r"(?:s|x|z|ch|sh)es$", noun):
        return noun[:-2]
    return noun[:-1] if len(noun) > 3 and noun.endswith("s") and not noun.endswith("ss") else noun


def _range(text: str) -> Range | None:
    if not _DIGITS_AT_BOTH_ENDS.fullmatch(text):
        return None
    low = numbers.match_number(text)
    dash = _RANGE_DASH.match(text, low[1]) if low else None
    high = numbers.match_number(text, dash.end()) if dash else None
    return Range(low[0], high[0]) if low and high and high[1] == len(text) else None


def _items(text: str) -> Answer | None:
    r"""A list, pair, tuple or interval; alternatives joined by "or"."""
    if _depth(text) > _MAX_DEPTH or "\\begin" in text:
        return None
    if plus_minus := _PLUS_MINUS.fullmatch(text):
        return Items((parse_answer(plus_minus[1]), parse_answer(f"-{plus_minus[1]}")))
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
    pieces = [piece for piece in pieces if piece]
    return _make_items(pieces, "") if len(pieces) > 1 else None


def _depth(text: str) -> int:
    """How deep the brackets of a text are nested."""
    steps = ((character in _OPENING) - (character in _CLOSING) for character in text)
    return max(itertools.accumulate(steps), default=0)


def _make_items(pieces: list[str], brackets: str) -> Answer | None:
    if not all(piece.strip() for piece in pieces):
        return None
    items = tuple(parse_answer(piece) for piece in pieces)
    if isinstance(items[0], Named) and len(items) > 1 and not any(isinstance(item, Named) for item in items[1:]):
        return Named(items[0].name, Items((items[0].value, *items[1:]), brackets))  # x = 1, 2
    if brackets in ("", "or") and _have_one_name(items):
        return Named(items[0].name, Items(tuple(item.value for item in items)))  # x = 1 or x = 2
    return Items(items, brackets)


def _have_one_name(items: tuple[Answer, ...]) -> TypeGuard[tuple[Named, ...]]:
    return len({item.name if isinstance(item, Named) else None for item in items} | {None}) == 2 and all(
        isinstance(item, Named) for item in items
    )


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
    value = parse_answer(found[2])
    is_guess = name.casefold() in _NOT_COUNTED or name.casefold() in _GUESSES
    is_circular = isinstance(value, Quantity) and isinstance(value.value, str) and name in variables(value.value)
    return None if is_guess or is_circular or not isinstance(value, Quantity | Items) else Named(name, value)


def _mathematics(text: str) -> Quantity | None:
    """An expression that is mathematics to its last character, and the unit behind it."""
    found = _UNIT_BEHIND.fullmatch(text)
    # Behind a variable, a unit's symbol could be another; a range with a unit is text.
    is_constant = found and is_mathematics(found[1]) and not variables(found[1]) and not _range(found[1])
    if found and is_constant and (unit := units.parse_unit(found[2])):
        return Quantity(found[1], unit)
    return Quantity(text) if is_mathematics(text) or numbers.is_beyond_bounds(text) else None


def _words(text: str) -> Words:
    if "\\begin" in text:
        return Words((re.sub(r"\s", "", text),))  # a matrix or table, in which spaces mean nothing
    text = re.sub(r"[,;](?=\s|$)", "", text)
    return Words(tuple(_SUBSCRIPT.sub(r"\1", text).casefold().split()))
