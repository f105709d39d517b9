"""The wording of the three prompts of R1-Router: where to look next, what a document says, and the final answer.

A wording is a directory of four templates, `route_system.txt`, `route.txt`, `answer.txt` and `final.txt`, in which
`$question`, `$history`, `$documents`, `$sub_question` and `$image` stand for what the prompt is about. Two come with
the package, `full` for pretrained models and `short` for the embedded task; a directory of the user's own has the words
that a model was trained with. Where `$image` stands decides whether the picture comes first or last.
"""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from r1vl_jax.data.placeholders import IMAGE_PLACEHOLDER

WORDINGS = ("full", "short")
_PLACEHOLDER = re.compile(r"<((?:image|video)[ _]?\d*)>")  # in any form that `data.placeholders` knows
# The templates, with the names that each must have.
_NAMES = {
    "route_system": (),
    "route": ("question", "history", "image"),
    "answer": ("documents", "sub_question", "image"),
    "final": ("question", "history", "image"),
}


@dataclass(frozen=True)
class Prompt:
    """A prompt in the form of a record: the system prompt, "" for none, and the user's text with `<image>`."""

    system: str
    text: str


@dataclass(frozen=True)
class Wording:
    """Templates of the prompts; see the module."""

    route_system: str
    route: str
    answer: str
    final: str

    def route_prompt(self, question: str, history: Sequence[tuple[str, str]], *, has_image: bool) -> Prompt:
        """Asks what to look up next.

        Args:
            history: sub-questions so far, each with its answer.
        """
        values = {"question": question, "history": _numbered(history)}
        return Prompt(self.route_system, _fill(self.route, values, has_image))

    def answer_prompt(self, sub_question: str, documents: Sequence[str], *, has_image: bool) -> Prompt:
        """Asks a sub-question about documents, in a conversation without history.

        Args:
            documents: lines with the mark of their source.
        """
        values = {"sub_question": sub_question, "documents": "\n".join(map(_one_line, documents))}
        return Prompt("", _fill(self.answer, values, has_image))

    def final_prompt(self, question: str, history: Sequence[tuple[str, str]], *, has_image: bool) -> Prompt:
        """Asks the origin question, with all that was looked up."""
        return Prompt("", _fill(self.final, {"question": question, "history": _numbered(history)}, has_image))


def load_wording(name: str) -> Wording:
    """A wording of the package, or of a directory.

    Raises:
        FileNotFoundError, ValueError: a template is absent, or lacks a name or has another one.
    """
    directory = Path(__file__).parent / name if name in WORDINGS else Path(name)
    missing = [f"{each}.txt" for each in _NAMES if not (directory / f"{each}.txt").is_file()]
    if missing:
        raise FileNotFoundError(
            f"prompts={name!r}: expected {' or '.join(WORDINGS)}, or a directory with {', '.join(missing)}"
        )
    texts = {each: (directory / f"{each}.txt").read_text("utf-8").strip() for each in _NAMES}
    for each, names in _NAMES.items():
        template = string.Template(texts[each])
        if not template.is_valid() or set(template.get_identifiers()) != set(names):
            expected = ", ".join(f"${name}" for name in names) or "no names"
            raise ValueError(f"{directory / each}.txt: expected {expected}, got {template.get_identifiers()}")
    return Wording(**texts)


def _fill(template: str, values: dict[str, str], has_image: bool) -> str:
    """The template with values whose own placeholders are words; lines of a name alone that is empty go."""
    plain = {name: _PLACEHOLDER.sub(r"(\1)", value) for name, value in values.items()}
    plain["image"] = IMAGE_PLACEHOLDER if has_image else ""
    empty = [f"${name}" for name, value in plain.items() if not value]
    lines = (line for line in template.split("\n") if line.strip() not in empty)
    return string.Template("\n".join(lines)).substitute(plain).strip()


def _numbered(history: Sequence[tuple[str, str]]) -> str:
    lines = (f"{number}. {_one_line(asked)} {_one_line(said)}" for number, (asked, said) in enumerate(history, start=1))
    return "\n".join(lines)


def _one_line(text: str) -> str:
    return " ".join(text.split())
