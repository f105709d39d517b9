r"""Equations, comparisons and named quantities as a worked solution states them.

    We get 8 \times 6 + 5 = 48 + 5 = 53 pages.      8 \times 6 + 5 = 48 + 5     and     48 + 5 = 53
    AB = \sqrt{3^2 + 4^2} = 5                       \sqrt{3^2 + 4^2} = 5        and     AB, which is 5
    the value for 2019 is 31.4%                     value for 2019, which is 31.4

What is read is bounded: clauses of at most 300 characters, each in one pass.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import regex as re  # whose possessive quantifiers are right in every Python

from r1vl_jax.data.solutions import arithmetic
from r1vl_jax.data.solutions.doubts import Doubts
from r1vl_jax.data.solutions.expressions import EXPRESSION, GOES_ON, OF, OPERATOR_WORD, UNIT_AT_END, WORD_GOES_ON
from r1vl_jax.data.solutions.names import name_at_end

_MAX_CLAUSE = 300
_MAX_SIDE = 100  # characters that a name or an expression is looked for in
_ATTRIBUTE = r"\s+[\w-]+=(?:\"[^\"<>\n]*+\"|[^\s\"<>]++)"
_CLAUSE_END = re.compile(
    rf"(?:\n|\A)[ \t]*+[-*•][ \t]|<[a-z]++(?:{_ATTRIBUTE})+\s*/?>|"
    r"\\(?:begin|end)\{\w+\*?\}|\n|\\\\|<<|>>|(?<=[.;:!?])\s|,\s|\\[()\[\]]|\*\*|\$\$|\\(?:Right|L?ongright)arrow|\\implies|[⇒→。，；：！？]"
)
_DIGIT = re.compile(r"\d")
_WIDE = "０１２３４５６７８９＋－＝＊／（）．＜＞％"
_NARROW = str.maketrans(_WIDE, "0123456789+-=*/().<>%")
_RELATION = re.compile(
    r"(?P<equal>(?<![<>!=:])=(?![=>])|≈|\\approx(?![a-z]))|(?P<less>(?<!<)<(?![<>=/a-z])|\\lt(?![a-z]))"
    r"|(?P<greater>(?<![<>/a-z=-])>(?![<>=])|\\gt(?![a-z]))"
    r"|(?P<verb>(?<=\s)(?:is equal to|equals|is|are|was|were)(?=\s+(?:[-−$€£(\\.]*\d|\\)))"
)
# Behind a number, so that the verb before it does not say what the quantity is.
_OTHER_THAN = re.compile(
    r"\W*(?:\w+\s+){0,2}(?:more|less|fewer|higher|lower|older|younger|greater|larger|smaller|longer|shorter|taller"
    r"|times|of|to|and|or|out|percentage)\b"
)
# Before a symbol, which is then not itself what is equal: "the sum of a and b = 12".
_OF_IT = re.compile(
    r"\b(?:twice|double|triple|half)[\s$]*$|\b(?:sum|difference|product|quotient|ratio|average|mean|area|perimeter"
    r"|circumference|volume|square|cube|root|twice|double|half)\b.*"
    r"\b(?:of|and|than|to|by|between|triangle|rectangle|square|circle|sector|parallelogram|trapezoid)[\s$]*$",
    re.IGNORECASE,
)
_TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|textbf)\{[^{}]*\}")
_WORD = re.compile(
    rf"(?<![\\A-Za-z}}\d])(?!{OPERATOR_WORD}\b|(?:by|sqrt|sin|cos|tan|log|ln)\b)(?:[A-Za-z]*[a-z]{{2}}[A-Za-z]*|[A-Z][a-z]\b)"
    r"|[\u3040-\u9fff]+"
)
_ARTICLE = re.compile(r"[aAI]\s[\d(\\$]")
_NUMBER_AT_END = re.compile(r"\d\s?$")
_BEHIND_UNIT = re.compile(r"[²³\d^{}]*\s*(?:[-+*/×·÷∙−–)]|x\s?\d|\\|$)")


@dataclass(frozen=True)
class Statement:
    """What a solution states.

    Attributes:
        text: as it stands there, without a unit at the end.
        kind: "equation" of a computation and its value, "comparison" of two numbers, or "name" of a quantity.
        left: the computation, the lesser number, or the name.
        right: the value, or the greater number.
        start: offset of `text`.
    """

    text: str
    kind: str
    left: str
    right: str
    start: int


@dataclass(frozen=True)
class _Side:
    """One side of a relation: an expression, or a name in words; `text` and `end` are without the unit behind it."""

    text: str
    start: int
    end: int
    end_of_unit: int
    is_words: bool = False

    @property
    def is_name(self) -> bool:
        return self.is_words or arithmetic.is_symbol(self.text)


def read_statements(doubts: Doubts) -> Iterator[Statement]:
    """What a text states and neither denies nor asks nor supposes, and arithmetic does not refute, in order."""
    text = doubts.text
    for statement in _mentioned(text.translate(_NARROW)):
        is_true_anyway = statement.kind != "name" and not arithmetic.has_symbols(statement.left + statement.right)
        if doubts.leave(statement.start, is_true_anyway=is_true_anyway):
            yield replace(statement, text=text[statement.start : statement.start + len(statement.text)])


def _mentioned(text: str) -> Iterator[Statement]:
    start = 0
    for end, next_start in [*(match.span() for match in _CLAUSE_END.finditer(text)), (len(text), len(text))]:
        if end - start <= _MAX_CLAUSE and _DIGIT.search(text, start, end):
            yield from _in_clause(text[start:end], start)
        start = next_start


def _in_clause(clause: str, offset: int) -> Iterator[Statement]:
    relations = list(_RELATION.finditer(clause))
    bounds = [0, *(bound for relation in relations for bound in relation.span()), len(clause)]
    chain: list[_Side] = []  # sides that are equal, and read to their ends
    for index, relation in enumerate(relations):
        left_start, left_end, right_start, right_end = bounds[2 * index : 2 * index + 4]
        left = chain[-1] if chain else _last_side(clause, left_start, left_end)
        right = _first_side(clause, right_start, right_end, is_verb=relation["verb"] is not None)
        if left is None or right is None:
            chain = []
            continue
        is_equation = relation["less"] is None and relation["greater"] is None
        if not is_equation:
            yield from _comparison(clause, offset, left, right, is_less=relation["less"] is not None)
        else:
            yield from _equation(clause, offset, left, right)
            is_end = len(chain) > 1 and chain[0].is_name and arithmetic.may_be_equal(left.text, right.text)
            if is_end and not _are_short(chain[0], right):
                yield from _quantity(clause, offset, chain[0], right)
        is_whole = not clause[right.end_of_unit : right_end].strip(" $")
        chain = [*(chain or [left]), right] if is_equation and is_whole else []


def _are_short(name: _Side, value: _Side) -> bool:
    """Whether these are a letter and a digit, which `x = 4` of "2x = 4" matches, too."""
    return len(name.text.strip(" $&")) == 1 and len(arithmetic.plain(value.text)) == 1


def _comparison(clause: str, offset: int, left: _Side, right: _Side, *, is_less: bool) -> Iterator[Statement]:
    less, greater = (left, right) if is_less else (right, left)
    if all(arithmetic.is_number(side.text) for side in (left, right)) and arithmetic.is_less(less.text, greater.text):
        yield _statement(clause, offset, "comparison", less, greater)


def _equation(clause: str, offset: int, left: _Side, right: _Side) -> Iterator[Statement]:
    """What two neighbours of a chain state."""
    if left.is_name or right.is_name:
        yield from _quantity(clause, offset, *((left, right) if left.is_name else (right, left)))
        return
    computation, value = (left, right) if _is_end(right, left) or not _is_end(left, right) else (right, left)
    is_known = arithmetic.is_value(value.text) or not arithmetic.has_symbols(left.text + right.text)
    is_step = is_known and arithmetic.is_computation(computation.text) and not arithmetic.is_number(computation.text)
    if is_step and arithmetic.may_be_equal(left.text, right.text):
        yield _statement(clause, offset, "equation", computation, value)


def _is_end(value: _Side, computation: _Side) -> bool:
    """Whether a computation ends with this value: 0.75 is that of 3/4, which is one itself."""
    return arithmetic.is_number(value.text) or (
        arithmetic.is_value(value.text) and not arithmetic.is_value(computation.text)
    )


def _quantity(clause: str, offset: int, name: _Side, value: _Side) -> Iterator[Statement]:
    if arithmetic.is_value(value.text):
        yield _statement(clause, offset, "name", name, value)


def _statement(clause: str, offset: int, kind: str, left: _Side, right: _Side) -> Statement:
    start, end = min(left.start, right.start), max(left.end, right.end)
    return Statement(clause[start:end], kind, left.text, right.text, offset + start)


def _first_side(clause: str, start: int, end: int, *, is_verb: bool) -> _Side | None:
    """The expression that a text begins with."""
    text = clause[start:end]
    is_closing = text.count("$") == 1  # the dollar closes what was opened before, or is money
    start += len(text) - len(text.lstrip() if is_closing else text.lstrip(" $&"))
    found = EXPRESSION.match(clause, start, end)
    if found is None or GOES_ON.match(clause, found.end(), end):
        return None
    side = _without_unit(found[0], start)
    if WORD_GOES_ON.match(clause, side.end, end) or OF.match(clause, side.end_of_unit, end):
        return None
    return None if is_verb and _OTHER_THAN.match(clause[side.end : end]) else side


def _last_side(clause: str, start: int, end: int) -> _Side | None:
    """The expression, or else the name, that a text ends with."""
    start = max(start, end - _MAX_SIDE)
    text = clause[start:end].rstrip(" $&")
    masked = text
    if "{" in text:
        masked = _TEXT_COMMAND.sub(lambda command: "\\text" + "{" * (len(command[0]) - 5), text)
    words = [word.end() for word in _WORD.finditer(masked) if not _is_unit(masked, word)]
    first = _without_opening(text, words[-1] if words else 0)
    side = _without_unit(text[first:], start + first) if EXPRESSION.fullmatch(text, first) else None
    if side and not (words and arithmetic.is_number(side.text)):
        return None if side.is_name and _OF_IT.search(text[:first]) else side
    if name := name_at_end(text):  # "value for 2019" is one, too
        end = start + len(text)
        return _Side(name[0], start + name[1], end, end, is_words=True)
    return side


def _without_opening(text: str, first: int) -> int:
    """Where an expression begins that may stand behind a dollar, an open bracket or an article."""
    first += len(text[first:]) - len(text[first:].lstrip(" $*_:"))
    first += text[first:].startswith("(") and text[first:].count("(") > text[first:].count(")")
    return first + (2 if _ARTICLE.match(text, first) else 0)


def _is_unit(text: str, word: re.Match[str]) -> bool:
    """Whether a word stands behind a number and before an operator or the end."""
    is_behind_number = _NUMBER_AT_END.search(text, max(0, word.start() - 2), word.start()) is not None
    return is_behind_number and _BEHIND_UNIT.match(text, word.end()) is not None


def _without_unit(text: str, start: int) -> _Side:
    text = text.rstrip()
    unit = UNIT_AT_END.search(text)
    end = unit.start() if unit else len(text)
    return _Side(text[:end], start, start + end, start + len(text))
