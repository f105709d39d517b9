"""Key steps of a worked solution by rule, for records that come without any.

"There are 8 \\times 6 = 48 pages."   ->   (("8 \\times 6 = 48", "8*6=48", "8 times 6 is 48", ...),)
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from r1vl_jax import response_format
from r1vl_jax.data.key_steps.found import Group, KeySteps
from r1vl_jax.data.record import Record
from r1vl_jax.data.solutions import arithmetic
from r1vl_jax.data.solutions.doubts import Doubts
from r1vl_jax.data.solutions.spellings import merge, spellings
from r1vl_jax.data.solutions.statements import Statement, read_statements
from r1vl_jax.data.sources.answers import answer_in_response
from r1vl_jax.rewards import sections
from r1vl_jax.rewards.answers import compare_any, reading
from r1vl_jax.rewards.answers.units import parse_unit
from r1vl_jax.rewards.normal_form import normal_form, occurrences_at_boundaries
from r1vl_jax.rewards.strings import to_bytes

_MAX_CHARACTERS = 20_000  # of a solution that are read
_MAX_SPELLING = 64  # characters
_MAX_LINKS = 6  # of a chain of equal sides
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
_REASONS = {
    "equation": "a computation with its value",
    "comparison": "a comparison of numbers",
    "name": "a named quantity",
}
_BY_UNIT = "a number with a unit"
_ASKED, _ANSWER = "the question says it already", "the final answer alone"
_BY_CHANCE = "of single digits alone, as a wrong path may state by chance"


def key_steps_by_rule(problem: str, solution: str, *, max_steps: int = 8) -> tuple[Group, ...]:
    """Key steps of a solution: groups of equivalent spellings, in the order of the solution.

    Equations that arithmetic does not refute and comparisons of numbers, but for those of two or three single digits;
    named quantities ("AB = 12", "the radius is 5"); and where these are few also numbers of two digits or more with a
    unit. Of a text with numbered steps only the steps are read. Left out are what the question says already, and the
    final answer alone. The first spelling of each group stands in the solution, so that a response equal to it matches
    all groups.

    Args:
        problem: the question.
        solution: a worked solution, or a whole response; prose without statements has no key steps.
        max_steps: the most groups; of more, those kept are evenly spread over the solution.
    """
    return explain_by_rule(problem, solution, max_steps=max_steps).groups


def explain_by_rule(problem: str, solution: str, *, max_steps: int = 8) -> KeySteps:
    """The groups of `key_steps_by_rule`, why each is one, and what is stated and left out."""
    solution = solution[:_MAX_CHARACTERS]
    path, answer, question = Doubts.read(_reasoning(solution)), answer_in_response(solution), _Question(problem)
    left_out: dict[str, str] = {}
    steps = _statements(path, answer, question, left_out)
    if len(steps) < _ENOUGH:
        steps = sorted(steps + _quantities(path, answer, steps, question))
    num_kept = min(len(steps), max_steps)
    kept = [steps[index * len(steps) // num_kept] for index in range(num_kept)]
    left_out |= {group[0]: f"one of more than {max_steps}" for _, group, _ in steps if len(steps) > num_kept}
    reasons = {group[0]: reason for _, group, reason in kept}
    left_out = {text: reason for text, reason in left_out.items() if text not in reasons}
    return KeySteps(tuple(group for _, group, _ in kept), reasons, left_out)


def explain_record(record: Record) -> KeySteps:
    """Of a record's solution, or else its response; none of a text whose own answer is wrong."""
    answers = [answer for answer in (record.answer, *record.other_answers) if answer]
    return explain_texts(question_of(record), worked_solutions(record), answers)


def question_of(record: Record) -> str:
    """All that can be copied from what is asked."""
    return "\n".join((record.system, *record.texts()))


def worked_solutions(record: Record) -> list[str]:
    """Its solution and its response, as far as there are any; an answer alone is none."""
    return [text for text in (record.solution, record.response) if text.strip() and text != record.answer]


def explain_texts(question: str, texts: Sequence[str], answers: Sequence[str]) -> KeySteps:
    """Of the first of several solutions that has key steps.

    Args:
        answers: that are right.
    """
    left_out: dict[str, str] = {}
    for text in texts:
        own_answer = answer_in_response(text)
        is_marked = own_answer not in ("", text.strip())
        if answers and is_marked and compare_any(answers, own_answer).is_correct is False:
            left_out[own_answer] = "the answer of the solution, which is not that of the record"
        elif (found := explain_by_rule(question, text)).groups:
            return found
        else:
            left_out |= found.left_out
    return KeySteps(left_out=left_out)


class _Question:
    """What can be copied from a question."""

    def __init__(self, problem: str):
        self.numbers = numbers(problem)
        self._problem, self._folded = problem, problem.lower()
        self._sentences = _SENTENCE_END.split(self._folded)

    def has(self, statement: Statement, group: Group) -> bool:
        """Whether it states this: in one of the spellings, or a word of the name and the value in one sentence."""
        if not numbers(group[1]) <= self.numbers:
            return False
        name, values = statement.left.lower(), numbers(statement.right)
        words = [name] if len(name) < 4 else [word for word in _WORD.findall(name) if word not in _GENERAL]
        if statement.kind == "name" and any(
            values <= numbers(each) and any(word in each for word in (name, *words)) for each in self._sentences
        ):
            return True
        return any(spelling.lower() in self._folded or occurs(spelling, self._problem) for spelling in group)


_Step = tuple[int, Group, str]  # offset, spellings, reason


def _statements(path: Doubts, answer: str, question: _Question, left_out: dict[str, str]) -> list[_Step]:
    """The groups of what a path states; what it states that is no key step is added to `left_out`."""
    found: dict[str, _Step] = {}
    answer_key = _key(answer)
    chain: list[tuple[Statement, _Step]] = []  # that a name may stand before: "AB = 48 / 4 = 12"
    for statement in read_statements(path):
        group = spellings(statement)
        keys = [_key(spelling) for spelling in group]
        if any(key in found for key in keys):
            continue
        if reason := _why_not(statement, group, path.text, question, is_answer=answer_key in keys):
            left_out[group[0]] = reason
            continue
        step = statement.start, group, _REASONS[statement.kind]
        chain = [link for link in chain if _is_within(link[0], statement)] if statement.kind == "name" else chain
        if statement.kind == "name" and chain:
            links = [link for link, _ in chain if link.kind == "equation"]
            whole = [replace(links[0], right=statement.right, text=group[0])] if len(links) > 1 else []
            ends = [each for link, (_, each, _) in chain if link.kind == "equation" and link.right == statement.right]
            groups = [*(spellings(each)[1:] for each in whole), *ends]
            step = statement.start, merge(group, *groups), f"{_REASONS['name']}, {_REASONS['equation']}"
            keys += [key for key, value in found.items() if value in [earlier for _, earlier in chain]]
        found |= dict.fromkeys(keys, step)
        chain = [*chain, (statement, step)][-_MAX_LINKS:]
    return sorted(set(found.values()))


def _is_within(link: Statement, whole: Statement) -> bool:
    """Whether a statement is part of a chain that ends with another one."""
    return whole.start <= link.start and link.start + len(link.text) <= whole.start + len(whole.text)


def _why_not(statement: Statement, group: Group, path: str, question: _Question, *, is_answer: bool) -> str:
    """Why what a path states is no key step; "" if it is one."""
    if is_answer:
        return _ANSWER
    if len(group[0]) > _MAX_SPELLING:
        return f"longer than {_MAX_SPELLING} characters"
    if arithmetic.has_only_digits(statement.left, statement.right):
        return _BY_CHANCE
    if not _matches_at(path, statement):
        return "where it stands, it is part of something else"
    return _ASKED if question.has(statement, group) else ""


def _quantities(path: Doubts, answer: str, steps: list[_Step], question: _Question) -> list[_Step]:
    """Numbers with units that neither the question, the answer nor another step has."""
    known = question.numbers | numbers(answer).union(*(numbers(group[0]) for _, group, _ in steps))
    found: dict[str, _Step] = {}
    for match in _QUANTITY.finditer(path.text):
        number, unit = match[1].replace(",", ""), match[2]
        is_stated = sum(map(str.isdigit, number)) > 1 and path.leave(match.start(), is_true_anyway=False)
        if is_stated and number not in known and (unit in _MARKS or (unit not in _NO_UNITS and parse_unit(unit))):
            known.add(number)
            found[number] = match.start(), _with_unit(match[0], match[1], unit), _BY_UNIT
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


def numbers(text: str) -> set[str]:
    """The numbers in a text, without commas between their digits."""
    return {number.replace(",", "") for number in _NUMBER.findall(text)}


def _matches_at(path: str, statement: Statement) -> bool:
    """Whether its text matches where it stands: the line decides, since line breaks separate in either semantics."""
    end = path.find("\n", statement.start)
    return occurs(statement.text, path[path.rfind("\n", 0, statement.start) + 1 : end if end >= 0 else None])


def occurs(spelling: str, text: str) -> bool:
    """Whether a text has the spelling in normal form, as `semantics="paper"` looks for it."""
    spans = occurrences_at_boundaries(normal_form(to_bytes(text)), normal_form(to_bytes(spelling)))
    return next(spans, None) is not None


def _key(spelling: str) -> str:
    """What spellings that differ in spaces alone have in common."""
    return spelling.replace(" ", "").replace("$", "").lower()
