"""Key steps of a worked solution by rule, for records that come without any.

"There are 8 \\times 6 = 48 pages."   ->   (("8 \\times 6 = 48", "8*6=48", "8 times 6 is 48", ...),)
"""

import re

from r1vl_jax import response_format
from r1vl_jax.data.solutions.doubts import Doubts
from r1vl_jax.data.solutions.spellings import spellings
from r1vl_jax.data.solutions.statements import Statement, read_statements
from r1vl_jax.data.sources.answers import answer_in_response
from r1vl_jax.rewards import sections
from r1vl_jax.rewards.answers import reading
from r1vl_jax.rewards.answers.units import parse_unit
from r1vl_jax.rewards.normal_form import normal_form, occurrences_at_boundaries
from r1vl_jax.rewards.strings import to_bytes

_MAX_CHARACTERS = 20_000  # of a solution that are read
_MAX_SPELLING = 64  # characters
_ENOUGH = 3  # equations and named quantities, with which bare quantities are not needed
_QUANTITY = re.compile(
    r"(?<![\w.\\{^=$])(\d[\d,]*(?:\.\d+)?)\s?(\\?%|°[CF]?|\^\\circ|[A-Za-z]{1,12}(?:/[A-Za-z]{1,6})?)(?![\w%])"
)
_MARKS = {
    **dict.fromkeys(("%", r"\%"), ("%", r"\%", " %", " percent")),
    **dict.fromkeys(("°", r"^\circ"), ("°", r"^\circ", r"^{\circ}", " degrees")),
}
_NO_UNITS = {"in", "a", "A", "t", "T", "b", "B", "C", "F", "H", "S", "K"}  # words and names, too
_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
_WORD = re.compile(r"[^\W\d]{3,}|\d{2,}")
_GENERAL = set("the and for with from number amount count total sum value".split())  # words that tell no names apart
_SENTENCE_END = re.compile(r"[?!;\n]|\.(?!\d)")
Group = tuple[str, ...]


def key_steps_by_rule(problem: str, solution: str, *, max_steps: int = 8) -> tuple[Group, ...]:
    """Key steps of a solution: groups of equivalent spellings, in the order of the solution.

    Equations that arithmetic does not refute, comparisons of numbers, named quantities ("AB = 12", "the radius is 5"),
    and where these are few also numbers of two digits or more with a unit. Of a text with numbered steps only the
    steps are read. Left out are what the question says already, and the final answer alone. The first spelling of each
    group stands in the solution, so that a response equal to it matches all groups.

    Args:
        problem: the question.
        solution: a worked solution, or a whole response; prose without statements has no key steps.
        max_steps: the most groups; of more, those kept are evenly spread over the solution.
    """
    solution = solution[:_MAX_CHARACTERS]
    path, answer, question = _reasoning(solution), answer_in_response(solution), _Question(problem)
    steps = _statements(path, answer, question)
    if len(steps) < _ENOUGH:
        steps = sorted(steps + _quantities(path, answer, steps, question))
    num_kept = min(len(steps), max_steps)
    return tuple(steps[index * len(steps) // num_kept][1] for index in range(num_kept))


class _Question:
    """What can be copied from a question."""

    def __init__(self, problem: str):
        self.numbers = _numbers(problem)
        self._problem, self._folded = problem, problem.lower()
        self._sentences = _SENTENCE_END.split(self._folded)

    def has(self, statement: Statement, group: Group) -> bool:
        """Whether it states this: in one of the spellings, or a word of the name and the value in one sentence."""
        if not _numbers(group[1]) <= self.numbers:
            return False
        name, values = statement.left.lower(), _numbers(statement.right)
        words = [name] if len(name) < 4 else [word for word in _WORD.findall(name) if word not in _GENERAL]
        if statement.kind == "name" and any(
            values <= _numbers(each) and any(word in each for word in (name, *words)) for each in self._sentences
        ):
            return True
        return any(spelling.lower() in self._folded or _occurs(spelling, self._problem) for spelling in group)


def _statements(path: str, answer: str, question: _Question) -> list[tuple[int, Group]]:
    """The groups of what a path states, each with its offset."""
    found: dict[str, tuple[int, Group]] = {}
    answer_key = _key(answer)
    for statement in read_statements(path):
        group = spellings(statement)
        keys = [_key(spelling) for spelling in group]
        is_new = len(group[0]) <= _MAX_SPELLING and answer_key not in keys and not any(key in found for key in keys)
        if is_new and _matches_at(path, statement) and not question.has(statement, group):
            found |= dict.fromkeys(keys, (statement.start, group))
    return sorted(set(found.values()))


def _quantities(path: str, answer: str, steps: list[tuple[int, Group]], question: _Question) -> list[tuple[int, Group]]:
    """Numbers with units that neither the question, the answer nor another step has."""
    known = question.numbers | _numbers(answer).union(*(_numbers(group[0]) for _, group in steps))
    found: dict[str, tuple[int, Group]] = {}
    doubts = Doubts.read(path)
    for match in _QUANTITY.finditer(path):
        number, unit = match[1].replace(",", ""), match[2]
        is_stated = sum(map(str.isdigit, number)) > 1 and doubts.leave(match.start(), is_true_anyway=False)
        if is_stated and number not in known and (unit in _MARKS or (unit not in _NO_UNITS and parse_unit(unit))):
            known.add(number)
            found[number] = match.start(), _with_unit(match[0], match[1], unit)
    return list(found.values())


def _with_unit(text: str, number: str, unit: str) -> Group:
    units = _MARKS.get(unit, (f" {unit}", unit, rf"\text{{ {unit}}}", rf" \text{{{unit}}}"))
    return tuple(dict.fromkeys([text, *(f"{number}{spelling}" for spelling in units)]))


def _reasoning(solution: str) -> str:
    """The bodies of the numbered steps, or else all before the answer."""
    data = to_bytes(solution)
    found = sections.find_sections(data)
    end = sections.answer_start(found)
    steps = [s.body.partition(b"\n###")[0] for s in found if s.number and (end is None or s.start < end)]
    if not steps and reading.answer_element(data) is not None:
        steps = [data[slice(*reading.think_element(data))]]
    path = b"\n".join(steps) if steps else data.partition(response_format.ANSWER.encode())[0]
    return path.decode("utf-8", "surrogatepass").partition("####")[0]


def _numbers(text: str) -> set[str]:
    return {number.replace(",", "") for number in _NUMBER.findall(text)}


def _matches_at(path: str, statement: Statement) -> bool:
    """Whether its text matches where it stands: the line decides, since line breaks separate in either semantics."""
    end = path.find("\n", statement.start)
    return _occurs(statement.text, path[path.rfind("\n", 0, statement.start) + 1 : end if end >= 0 else None])


def _occurs(spelling: str, text: str) -> bool:
    """Whether a text has the spelling in normal form, as `semantics="paper"` looks for it."""
    spans = occurrences_at_boundaries(normal_form(to_bytes(text)), normal_form(to_bytes(spelling)))
    return next(spans, None) is not None


def _key(spelling: str) -> str:
    """What spellings that differ in spaces alone have in common."""
    return spelling.replace(" ", "").replace("$", "").lower()
