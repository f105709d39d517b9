"""Key steps by a language model, in three passes as in R1-VL: extract them, keep the core, spell them in other ways.

What a model replies is checked: a key step that the solution does not have, or that the question has already, is left
out, and so is a spelling with other numbers.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r1vl_jax.data.key_steps.found import Group, KeySteps
from r1vl_jax.data.key_steps.replies import Ask, Reply, read_json
from r1vl_jax.data.key_steps.rule import occurs, question_of, worked_solutions
from r1vl_jax.data.record import Record
from r1vl_jax.data.solutions.arithmetic import plain
from r1vl_jax.data.solutions.doubts import Doubts
from r1vl_jax.data.solutions.names import is_fragment
from r1vl_jax.data.solutions.statements import Statement, read_statements
from r1vl_jax.data.sources.answers import answer_in_response
from r1vl_jax.rewards.normal_form import normal_form
from r1vl_jax.rewards.strings import key_step_spans, to_bytes

PASSES = ("extract", "keep", "spell")
MAX_STEPS = 8  # of a record
_PLACEHOLDERS = {"extract": ("question", "solution"), "keep": ("question", "solution", "steps"), "spell": ("steps",)}
_PLACEHOLDER = re.compile(r"\{(question|solution|steps|max_steps)\}")
_PICTURE = re.compile("<image>|<video>")  # the model sees none
_MAX_SPELLINGS = 16
_MAX_CHARACTERS = 200  # of a spelling
_MIN_SIGNS = 2  # letters and digits
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_WORD = re.compile(r"[^\W\d]{4,}")
_REASON = "of the core, says the model"


@dataclass(frozen=True)
class Prompts:
    """The prompts of the passes, with the placeholders {question}, {solution}, {steps} and {max_steps}."""

    extract: str
    keep: str
    spell: str

    @classmethod
    def read(cls, directory: Path) -> "Prompts":
        """From the files extract.txt, keep.txt and spell.txt.

        Raises:
            ValueError: one is not there, or lacks a placeholder.
        """
        return cls(**{name: _read_prompt(directory / f"{name}.txt", _PLACEHOLDERS[name]) for name in PASSES})


def _read_prompt(path: Path, placeholders: Sequence[str]) -> str:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--prompts: {path} cannot be read: {error}") from error
    if missing := [f"{{{name}}}" for name in placeholders if f"{{{name}}}" not in text]:
        raise ValueError(f"--prompts: {path} lacks {', '.join(missing)}")
    return text


OWN_PROMPTS = Path(__file__).parent / "prompts"


@dataclass
class _Work:
    """A record on its way through the passes.

    Attributes:
        steps: key steps so far, each with its spellings.
        left_out: as of `KeySteps`.
        error: why no pass follows.
    """

    question: str
    solution: str
    answer: str
    steps: dict[str, Group] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    error: str = ""

    @classmethod
    def of(cls, record: Record) -> "_Work":
        solution = next(iter(worked_solutions(record)), "")
        return cls(question_of(record), solution, record.answer or answer_in_response(solution))

    def prompt(self, template: str) -> str:
        question = _PICTURE.sub("", self.question).strip()
        values = {"question": question, "solution": self.solution, "max_steps": str(MAX_STEPS)}
        values["steps"] = json.dumps(list(self.steps), ensure_ascii=False, indent=0)
        # One substitution, so that braces of a solution stay as they are.
        return _PLACEHOLDER.sub(lambda name: values[name[1]], template)

    def take(self, name: str, reply: Reply) -> None:
        """Goes on with a reply to the pass of this name."""
        try:
            if reply.error:
                raise ValueError(reply.error)
            value = read_json(reply.text)
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair cannot be kept
            getattr(self, f"_{name}")(value)
        except ValueError as error:
            self.error = f"pass {name}: {error}"

    def key_steps(self) -> KeySteps:
        return KeySteps(tuple(self.steps.values()), dict.fromkeys(self.steps, _REASON), self.left_out)

    def _extract(self, value: Any) -> None:
        for step in _texts(value):
            if reason := self._why_not(step):
                self.left_out[step] = reason
            else:
                self.steps[step] = (step,)

    def _keep(self, value: Any) -> None:
        named = set(_texts(value))
        core = [step for step in self.steps if step in named]
        self.left_out |= {step: "not of the core, says the model" for step in self.steps if step not in named}
        self.left_out |= {step: f"one of more than {MAX_STEPS}" for step in core[MAX_STEPS:]}
        self.steps = {step: self.steps[step] for step in core[:MAX_STEPS]}

    def _spell(self, value: Any) -> None:
        if not isinstance(value, dict):
            raise ValueError(f"expected an object of lists, got {str(value)[:60]!r}")
        for step in self.steps:
            written = {text: self._why_no_spelling(text, step) for text in _texts(value.get(step, []))}
            self.left_out |= {text: reason for text, reason in written.items() if reason}
            right = (text for text, reason in written.items() if not reason)
            self.steps[step] = tuple(dict.fromkeys((step, *right)))[:_MAX_SPELLINGS]

    def _why_not(self, step: str) -> str:
        """Why a text that the model takes for a key step is none; "" if it is one."""
        if not key_step_spans(self.solution, [(step,)], semantics="paper")[0]:
            return "not in the solution"
        return self._why_never(step)

    def _why_no_spelling(self, text: str, step: str) -> str:
        """Why a text is no other spelling of a key step; "" if it is one."""
        if not _states_the_same(text, step):
            return f"a spelling that may state something else than {step!r}"
        return self._why_never(text)

    def _why_never(self, step: str) -> str:
        if len(step) > _MAX_CHARACTERS:
            return f"longer than {_MAX_CHARACTERS} characters"
        if sum(map(str.isalnum, step)) < _MIN_SIGNS:
            return "so short that it is found by chance"
        if is_fragment(step):
            return "words that state nothing"
        if normal_form(to_bytes(step)) == normal_form(to_bytes(self.answer)):
            return "the final answer alone"
        return "the question says it already" if occurs(step, self.question) else ""


def key_steps_by_model(
    records: Sequence[Record], ask: Ask, prompts: Prompts, *, forget: Callable[[str], None] = lambda prompt: None
) -> list[KeySteps | str]:
    """The key steps of each record, or why a model gave none; at most one call for each record and pass.

    Records without a worked solution have none, and are not asked about.

    Args:
        forget: is told a prompt whose reply cannot be used.
    """
    works = [_Work.of(record) for record in records]
    for name in PASSES:
        open_works = [work for work in works if not work.error and (work.steps if name != PASSES[0] else work.solution)]
        asked = [work.prompt(getattr(prompts, name)) for work in open_works]
        replies = dict(ask(list(dict.fromkeys(asked)))) if asked else {}
        for work, prompt in zip(open_works, asked, strict=True):
            work.take(name, replies[prompt])
            if work.error:
                forget(prompt)
    return [work.error or work.key_steps() for work in works]


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"expected a list of texts, got {str(value)[:60]!r}")
    return [text for each in value if (text := each.strip())]


def _gist(statement: Statement) -> tuple[str, str, str]:
    """What other spellings of a statement have in common; a computation may be written in many ways."""
    name = statement.left.strip(" $&").lower() if statement.kind == "name" else ""
    return statement.kind, name, plain(statement.right)


def _states_the_same(text: str, step: str) -> bool:
    """Whether two texts state the same: the same numbers, and the same statement or else the same words."""
    if sorted(_NUMBER.findall(text.replace(",", ""))) != sorted(_NUMBER.findall(step.replace(",", ""))):
        return False
    one, other = (list(read_statements(Doubts.read(each))) for each in (text, step))
    if other:
        return bool({*map(_gist, one)} & {*map(_gist, other)})
    return set(_WORD.findall(step.lower())) <= set(_WORD.findall(text.lower()))
