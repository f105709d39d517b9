"""A page of records: picture, question, solution with its key steps marked, and why each is one."""

from collections.abc import Iterable
from dataclasses import dataclass

from etils import epath

from r1vl_jax import rewards
from r1vl_jax.data.key_steps.file import KeyStepsFile
from r1vl_jax.data.key_steps.found import KeySteps
from r1vl_jax.data.key_steps.rule import worked_solutions
from r1vl_jax.data.record import Record
from r1vl_jax.observe.files import atomic_write
from r1vl_jax.report.rendering import render
from r1vl_jax.report.samples import Piece, image_url, split_into_pieces

_OWN, _BY_HAND = "the data set has it", "written by hand"


@dataclass(frozen=True)
class Shown:
    """A record on the page.

    Attributes:
        place: of its key steps, as "key_steps.jsonl, line 3".
        image_urls: data URLs of its pictures, or of the first frames of its videos.
        solution: with its matched key steps.
        key_steps: spellings of each, whether it is found in the solution, and why it is a key step.
        left_out: what is none, and why not.
    """

    id: str
    place: str
    question: str
    answer: str
    image_urls: tuple[str, ...]
    solution: tuple[Piece, ...]
    key_steps: tuple[tuple[tuple[str, ...], bool, str], ...]
    left_out: tuple[tuple[str, str], ...]


def write_page(path: epath.Path, items: Iterable[tuple[str, Record, int]], file: KeyStepsFile) -> None:
    """Writes the page of records, each with its split and row, and their key steps in a file or of their own."""
    shown = [_show(split, record, row, file) for split, record, row in items]
    atomic_write(path, render("key_steps.html", file=file.path, records=shown).encode())


def _show(split: str, record: Record, row: int, file: KeyStepsFile) -> Shown:
    line = file.find(split, record, row)
    found = line.found if line else KeySteps(record.key_steps, {group[0]: _OWN for group in record.key_steps})
    texts = [(text, rewards.key_step_spans(text, found.groups, semantics="paper")) for text in worked_solutions(record)]
    none_found: list[list[tuple[int, int]]] = [[] for _ in found.groups]
    text, spans = max(texts, key=lambda each: sum(map(bool, each[1])), default=("", none_found))
    pictures = (*record.images, *(frames[0] for frames in record.videos))
    return Shown(
        id=f"{split} {record.id}",
        place=f"{file.path.name}, line {line.number}" if line else "not in the file",
        question=record.problem.replace("<image>", "").replace("<video>", "").strip(),
        answer=record.answer,
        image_urls=tuple(filter(None, map(image_url, pictures))),
        solution=tuple(split_into_pieces(text, spans)),
        key_steps=tuple(
            (group, bool(found_at), found.reasons.get(group[0], _BY_HAND))
            for group, found_at in zip(found.groups, spans, strict=True)
        ),
        left_out=tuple(found.left_out.items()),
    )
