"""Equivalent spellings of what a solution states: in plain symbols, in LaTeX and in words, either side first.

Spellings that every matcher takes for one are not listed twice, but for spaces: `semantics="released"` tells
`8*6=48` from `8 * 6 = 48`.
"""

import itertools
import re

from r1vl_jax.data.solutions.arithmetic import may_be_equal, plain
from r1vl_jax.data.solutions.statements import Statement
from r1vl_jax.rewards.normal_form import normal_form
from r1vl_jax.rewards.strings import to_bytes

MAX_SPELLINGS = 16
MAX_MERGED = 24
_MIN_REVERSED = 6  # bytes: "3 + 4 = x" has `4=x`, too
_WORDS = {"*": " times ", "+": " plus ", "-": " minus ", "/": " divided by "}
_BETWEEN = re.compile(r"(?<=[\w)%}])([-+*/])")  # an operator that is no sign
_QUOTIENT = re.compile(r"(?<![\w.)^])([\d.]+)/([\d.]+)(?![\w.(^])")
_SIMPLE = re.compile(r"-?[\d.]+(?:[-+*/][\d.]+){1,3}")
_OF_TWO = re.compile(r"(-?[\d.]+)([-+*])([\d.]+)")
_NOUNS = {"+": "sum", "-": "difference", "*": "product"}
_COMMUTING = re.compile(r"(-?[\d.]+)([+*])([\d.]+)")


def spellings(statement: Statement) -> tuple[str, ...]:
    """The spellings of one key step, as the solution has it first."""
    write = {"equation": _equation, "comparison": _comparison, "name": _quantity}[statement.kind]
    return tuple(dict.fromkeys((statement.text, *write(statement))))[:MAX_SPELLINGS]


def merge(*groups: tuple[str, ...]) -> tuple[str, ...]:
    """The spellings of key steps that are one; of many the last ones are left out."""
    return tuple(dict.fromkeys(itertools.chain(*groups)))[:MAX_MERGED]


def _equation(statement: Statement) -> list[str]:
    computation, value = plain(statement.left), plain(statement.right)
    if may_be_equal(computation, points := value.replace("%", "")):  # (45 / 60) * 100 = 75%
        value = points
    commuted = _COMMUTING.sub(r"\3\2\1", computation) if _COMMUTING.fullmatch(computation) else computation
    latex, spoken = _latex(computation), _spoken(computation)
    spaced = _spaced(computation)
    written = [f"{computation}={value}", f"{computation} = {value}", f"{spaced} = {value}", f"{latex} = {value}"]
    if spoken:
        written += [f"{spoken} is {value}", f"{spoken} equals {value}"]
    if of_two := _OF_TWO.fullmatch(computation):
        written.append(f"{_NOUNS[of_two[2]]} of {of_two[1]} and {of_two[3]} is {value}")
    written += [f"{value}={computation}", f"{value} = {spaced}", f"{value} = {latex}"]
    if "*" in computation or "/" in computation:
        written.append(f"{spaced.replace('*', '×').replace('/', '÷')} = {value}")
    if commuted != computation:
        written += [f"{commuted}={value}", f"{_spaced(commuted)} = {value}", f"{_latex(commuted)} = {value}"]
        written += [f"{value}={commuted}", f"{_spoken(commuted)} is {value}"]
    return written


def _comparison(statement: Statement) -> list[str]:
    less, greater = plain(statement.left), plain(statement.right)
    return [
        *(f"{greater}>{less}", f"{greater} > {less}", f"{less}<{greater}", f"{less} < {greater}"),
        *(f"{greater} is greater than {less}", f"{less} is less than {greater}"),
    ]


def _quantity(statement: Statement) -> list[str]:
    name, value = statement.left.strip(" $&"), plain(statement.right).replace("%", "")
    written = [f"{name}={value}", f"{name} = {value}", f"{name} is {value}"]
    if len(normal_form(to_bytes(f"{value}={name}"))) >= _MIN_REVERSED:
        written += [f"{value}={name}", f"{value} = {name}"]
    if re.match("[A-Za-z]{4}", name):  # a word
        written += [f"{name}: {value}", f"{value} is the {name}"]
    if (short := _name_without_commands(name)) != name:
        written += [f"{short}={value}", f"{short} = {value}", f"{short} is {value}"]
    if (latex := _latex(value)) != value:
        written.append(f"{name} = {latex}")
    return written


def _spaced(computation: str) -> str:
    return _BETWEEN.sub(r" \1 ", computation)


def _latex(computation: str) -> str:
    text = _QUOTIENT.sub(r"\\frac{\1}{\2}", computation) if "/" in computation else computation
    if "sqrt" in text or "pi" in text:
        text = re.sub(r"pi(?=[A-Za-z\d])", r"\\pi ", re.sub(r"sqrt\(([^()]*)\)", r"\\sqrt{\1}", text))
        text = re.sub(r"(?<!\\)pi", r"\\pi", text)
    return _spaced(text).replace("*", r"\times")


def _spoken(computation: str) -> str:
    """A short computation of numbers in words; "" for another one."""
    if not _SIMPLE.fullmatch(computation):
        return ""
    return _BETWEEN.sub(lambda sign: _WORDS[sign[1]], computation)


def _name_without_commands(name: str) -> str:
    return re.sub(r"\\overline\{(\w+)\}", r"\1", re.sub(r"\\angle\s*|∠\s?", "angle ", name))
