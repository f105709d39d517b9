"""Trajectories in R1-Router's own layout, as records of their steps, and back.

A trajectory is a row; each of its steps is a prompt of its own, which has the gold earlier steps in it:

    {"images": ["oven_images/oven_00106796.jpg"],
     "steps": [{"step_type": "ret", "system": "...", "problem": "...<image>",
                "answer": {"query": "which city is this?", "retriever": ["text image retriever"]}},
               {"step_type": "ans", "system": "...", "problem": "...<image>", "answer": "stockholm"}, ...]}

Retrievals and their answers take turns; a retrieval of "none" ends the search, unless it is cut off; the final answer
is the last step. The record of a step has the `id` NAME/NUMBER, counted from 1, the `kind` of its type, and its answer
as JSON, see `golds`. Pictures stand where its problem has `<image>`.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from r1vl_jax.data.placeholders import IMAGE_PLACEHOLDER
from r1vl_jax.data.record import Record, UnusableRecord
from r1vl_jax.data.sources.files import Row
from r1vl_jax.data.sources.pictures import list_pictures
from r1vl_jax.router.golds import ANSWER, RETRIEVAL, check_answer_golds, check_retrieval_gold
from r1vl_jax.router.picture_files import PictureFiles

_ORDER = re.compile("(?:RA)*E?A")  # retrievals and answers, the end of the search, the final answer
_FIELDS = ("system", "problem")

Drop = Callable[[UnusableRecord], None]


def step_id(trajectory: str, number: int) -> str:
    """The id of the record of a step, counted from 1."""
    return f"{trajectory}/{number}"


def read_trajectories(
    rows: Iterable[Row], pictures: PictureFiles, *, name: str, source: str, drop: Drop
) -> Iterator[list[Record]]:
    """The records of each trajectory's steps.

    Args:
        name: begins the names of trajectories: NAME-00000.
        source: of the records.
        drop: gets a trajectory that cannot be used, by its name, with the reason.
    """
    for number, row in enumerate(rows):
        try:
            yield read_trajectory(row, pictures, name=f"{name}-{number:05d}", source=source)
        except UnusableRecord as error:
            drop(error)


def read_trajectory(row: Row, pictures: PictureFiles, *, name: str, source: str) -> list[Record]:
    """The records of a trajectory's steps.

    Raises:
        UnusableRecord: a picture is missing, a step is of an unknown type, has no text or no readable answer, or the
            steps are out of order.
    """
    try:
        steps = row.get("steps")
        if not isinstance(steps, list | tuple) or not steps:
            raise ValueError(f"steps: expected a list of steps, got {steps!r:.80}")
        _check_order(steps)
        images = [pictures.read(cell) for cell in list_pictures(row.get("images"))]
    except ValueError as error:
        raise UnusableRecord(name, str(error)) from error
    return [_record(step, step_id(name, number), images, source) for number, step in enumerate(steps, start=1)]


def write_trajectories(records: Iterable[Record], write_image: Callable[[bytes], str], *, drop: Drop) -> Iterator[Row]:
    """Trajectories of records, as rows of the original's layout.

    Args:
        records: with the ids of `step_id`; the steps of a trajectory follow each other.
        write_image: writes an encoded picture; returns its path.
        drop: gets a trajectory that would not be in order, by its name, with the reason.
    """
    for name, steps in itertools.groupby(records, lambda record: record.id.rpartition("/")[0]):
        try:
            yield _row(list(steps), write_image)
        except ValueError as error:
            drop(UnusableRecord(name or "without a step's id", str(error)))


def _row(records: Sequence[Record], write_image: Callable[[bytes], str]) -> Row:
    numbers = [record.id.rpartition("/")[2] for record in records]
    if numbers != [str(number) for number in range(1, len(records) + 1)]:
        raise ValueError(f"expected records with ids NAME/1 to NAME/{len(records)}, got {records[0].id!r} and others")
    images = list(dict.fromkeys(image for record in records for image in record.images))
    steps = [_step(record) for record in records]
    _check_order(steps)
    return {"images": [write_image(image) for image in images], "steps": steps}


def _step(record: Record) -> dict[str, Any]:
    return {
        "step_type": record.kind,
        "problem": record.problem,
        "system": record.system,
        "answer": json.loads(record.answer),
    }


def _record(step: Mapping[str, Any], record_id: str, images: Sequence[bytes], source: str) -> Record:
    texts = {field: step.get(field, "") for field in _FIELDS}
    for field, text in texts.items():
        if not isinstance(text, str):
            raise UnusableRecord(record_id, f"{field}: expected a text, got {text!r:.80}")
    if (number := texts["problem"].count(IMAGE_PLACEHOLDER)) not in (0, len(images)):
        raise UnusableRecord(record_id, f"expected {IMAGE_PLACEHOLDER} for each of {len(images)} images, got {number}")
    return Record.make(
        texts["problem"],
        images=images if IMAGE_PLACEHOLDER in texts["problem"] else (),
        answer=json.dumps(step["answer"], ensure_ascii=False),
        id=record_id,
        kind=step["step_type"],
        source=source,
        system=texts["system"],
    )


def _check_order(steps: Sequence[Any]) -> None:
    kinds = "".join(_kind(number, step) for number, step in enumerate(steps, start=1))
    if not _ORDER.fullmatch(kinds):
        words = {"R": RETRIEVAL, "A": ANSWER, "E": f"{RETRIEVAL} (none)"}
        raise ValueError(
            f"steps out of order: expected {RETRIEVAL} and {ANSWER} by turns, a {RETRIEVAL} of none unless the search"
            f" is cut off, and a final {ANSWER}; got {', '.join(words[kind] for kind in kinds)}"
        )


def _kind(number: int, step: Any) -> str:
    """R for a retrieval, E for one that ends the search, A for an answer."""
    if not isinstance(step, Mapping) or (kind := step.get("step_type")) not in (RETRIEVAL, ANSWER):
        got = step.get("step_type") if isinstance(step, Mapping) else step
        raise ValueError(f"step {number}: expected step_type {RETRIEVAL!r} or {ANSWER!r}, got {got!r:.80}")
    try:
        if kind == ANSWER:
            check_answer_golds(step.get("answer"))
            return "A"
        return "E" if check_retrieval_gold(step.get("answer")).retriever is None else "R"
    except ValueError as error:
        raise ValueError(f"step {number}: {error}") from None
