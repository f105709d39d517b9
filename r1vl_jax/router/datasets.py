"""Questions with gold answers, from the files of the benchmarks that R1-Router is evaluated on, and of our own.

questions = read_questions(Path("infoseek_val.jsonl"), images=Path("oven_images"))
"""

import base64
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import logging

from r1vl_jax.data.pictures import open_picture
from r1vl_jax.data.sources.account import Account
from r1vl_jax.data.sources.files import Row
from r1vl_jax.router.picture_files import PictureFiles
from r1vl_jax.router.protocol import find_retriever
from r1vl_jax.router.question_layouts import Asked, read_asked
from r1vl_jax.router.question_rows import read_question_rows


@dataclass(frozen=True)
class Question:
    """A question to look things up for.

    Attributes:
        id: unique in its file.
        image: an encoded picture; None for text alone.
        golds: answers of which each is right, at least one.
        source: name of the benchmark, or of a kind of question; measures are reported by it.
        retrievers: names of those that answer it, in the order of the look-ups; empty where that is not known.
    """

    id: str
    text: str
    image: bytes | None
    golds: tuple[str, ...]
    source: str
    retrievers: tuple[str, ...] = ()


def read_questions(path: Path, *, images: Path | None = None, limit: int = 0) -> list[Question]:
    """The questions of a file in any layout of `question_layouts`; which one is seen from each row.

    Rows that cannot be used are left out, with a warning that counts and names them.

    Args:
        images: searched for the pictures; by default the directory of the file.
        limit: the first so many usable questions; 0 for all.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or has no usable question; says why.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of questions")
    account = Account()
    questions = list(itertools.islice(_usable(path, PictureFiles(images or path.parent), account), limit or None))
    if not questions:
        raise ValueError("\n".join([f"{path}: no usable question", *account.reasons(path.name)]))
    if any(account.dropped()):
        logging.warning("%s", "\n".join(account.lines()))
    return questions


def write_questions(path: Path, questions: Iterable[Question]) -> None:
    """Writes questions as JSON Lines in our own layout, with their pictures; makes the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for question in questions:
            file.write(json.dumps(_row(question), ensure_ascii=False) + "\n")


def _row(question: Question) -> dict[str, Any]:
    image = None if question.image is None else f"data:;base64,{base64.b64encode(question.image).decode()}"
    return {
        "id": question.id,
        "question": question.text,
        "golds": list(question.golds),
        "image": image,
        "source": question.source,
        "retrievers": list(question.retrievers),
    }


def _usable(path: Path, pictures: PictureFiles, account: Account) -> Iterator[Question]:
    stem, seen = path.name.partition(".")[0], set[str]()
    for number, row in enumerate(read_question_rows(path)):
        account.row(path.name)
        try:
            asked = read_asked(row)
            question = _question(asked, pictures, name=asked.id or f"{stem}-{number:05d}", source=asked.source or stem)
            if question.id in seen:
                raise ValueError(f"id {question.id!r} is that of an earlier row")
        except ValueError as error:
            account.drop(path.name, _name(row, number), str(error))
        else:
            seen.add(question.id)
            yield question


def _question(asked: Asked, pictures: PictureFiles, *, name: str, source: str) -> Question:
    image = None if asked.picture is None else asked.picture(pictures)
    if image is not None:
        _check_picture(image, name)
    retrievers = [find_retriever(each) for each in asked.retrievers]
    names = tuple(each.name for each in retrievers if each is not None)
    return Question(name, asked.text, image, asked.golds, source, names)


def _check_picture(image: bytes, name: str) -> None:
    try:
        open_picture(image, name=f"the picture of question {name!r}")
    except ValueError as error:
        raise ValueError(f"its picture ({len(image)} bytes) is unreadable: {error}") from error


def _name(row: Row, number: int) -> str:
    named = next((row[key] for key in ("id", "data_id", "question_id", "_id", "Guid") if key in row), "")
    return f"row {number}{f', {named}' if named else ''}"
