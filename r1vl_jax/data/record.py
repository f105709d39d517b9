"""The schema of a training or evaluation record, and whether a record is valid."""

import contextlib
import hashlib
import io
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from r1vl_jax.data import fields
from r1vl_jax.data.pictures import open_picture
from r1vl_jax.data.placeholders import IMAGE_PLACEHOLDER, match_placeholders
from r1vl_jax.rewards.key_steps import parse_key_steps

_VIDEO_PLACEHOLDER = "<video>"


class UnusableRecord(ValueError):
    """A record that cannot be used.

    Attributes:
        name: the record's id, or where it stands.
        reason: why, with expected and actual value.
    """

    def __init__(self, name: object, reason: str):
        super().__init__(f"record {name!r}: {reason}")
        self.name, self.reason = str(name), reason


@dataclass(frozen=True)
class Record:
    """A question about images or text, with its reference answer; it may end a conversation.

    Lists become tuples, and key steps in any layout of `parse_key_steps` become groups. Values of other types stay as
    they are: `invalid_reason` names them.

    Attributes:
        id: unique within its split, not empty; error messages name the record by it.
        images: encoded image files (PNG, JPEG, ...), in the order of their placeholders; none for text alone.
        problem: the question, with one `<image>` placeholder for each image, unless `history` has it.
        solution: a worked solution, or only the answer if there is none.
        answer: the reference answer; empty only with a response, for supervised fine-tuning alone.
        key_steps: key steps of the solution, each as a group of equivalent spellings.
        response: target completion for supervised fine-tuning; empty for reinforcement learning.
        kind: type of question; accuracy is also reported per kind.
        source: name of the data set that the record comes from.
        system: the system prompt; "" leaves it to the chat template, which may have one of its own.
        history: earlier questions of the conversation, each with the assistant's answer; the first comes first.
    """

    id: str
    images: tuple[bytes, ...]
    problem: str
    solution: str
    answer: str
    key_steps: tuple[tuple[str, ...], ...]
    response: str
    kind: str
    source: str
    system: str = ""
    history: tuple[tuple[str, str], ...] = ()

    @classmethod
    def make(
        cls,
        problem: str,
        *,
        images: Sequence[bytes | str | os.PathLike | Image.Image] = (),
        answer: str = "",
        key_steps: Any = (),
        response: str = "",
        solution: str = "",
        id: str = "",
        kind: str = "",
        source: str = "",
        system: str = "",
        history: Sequence[Sequence[str]] = (),
    ) -> "Record":
        """A valid record; all that is not given has a default.

        Args:
            problem: without any `<image>`, here or in the history, one for each image is put first.
            images: encoded files, paths of files, or images in memory.
            answer: needed, unless there is a response.
            key_steps: in any layout of `parse_key_steps`.
            solution: by default the answer.
            id: by default a digest of the content.
            history: pairs of a question and its answer.

        Raises:
            UnusableRecord: the record is invalid; says what is wrong with it.
        """
        try:
            encoded = tuple(map(_encoded, images))
            fields.check_history(history := fields.as_tuples(history))
            if isinstance(problem, str):
                texts, encoded, _ = match_placeholders([*itertools.chain(*history), problem], encoded)
                *_, problem = texts
                history = pair_turns(texts[:-1])
            content = repr((problem, encoded, answer, response, *filter(None, (system, history))))
            record = cls(
                id=id or hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()[:16],
                images=tuple(encoded),
                problem=problem,
                solution=solution or (answer if isinstance(answer, str) else ""),
                answer=answer,
                key_steps=key_steps,
                response=response,
                kind=kind,
                source=source,
                system=system,
                history=history,
            )
        except (ValueError, OSError) as error:
            raise UnusableRecord(id or "without id", str(error)) from error
        if (reason := invalid_reason(record)) is not None:
            raise UnusableRecord(record.id, reason)
        return record

    def __post_init__(self) -> None:
        for name in ("images", "history"):
            object.__setattr__(self, name, fields.as_tuples(getattr(self, name)))
        with contextlib.suppress(ValueError):
            object.__setattr__(self, "key_steps", parse_key_steps(self.key_steps))

    def texts(self) -> list[str]:
        """The texts of its turns, of the history and then the problem; they have the placeholders."""
        return [*itertools.chain(*self.history), self.problem]


def pair_turns(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """A history of texts, which are questions and answers by turns."""
    return tuple(zip(texts[::2], texts[1::2], strict=True))


def invalid_reason(record: Record) -> str | None:
    """Why a record is invalid, with expected and actual value; None if it is valid."""
    try:
        decode_images(record)
    except ValueError as error:
        return str(error)
    return None


def decode_images(record: Record) -> list[Image.Image]:
    """The images of a valid record, decoded by `pictures.open_picture`.

    Raises:
        ValueError: a field has another type, or the record has neither answer nor response, an unreadable image, a
            placeholder of a video, or another number of placeholders than images.
    """
    fields.check(record)
    if not record.answer.strip() and not record.response.strip():
        raise ValueError("it has no answer, and no response to train on")
    if any(_VIDEO_PLACEHOLDER in text for text in record.texts()):
        raise ValueError(f"records hold still images, and its problem has {_VIDEO_PLACEHOLDER}; give frames as images")
    num_placeholders = sum(text.count(IMAGE_PLACEHOLDER) for text in record.texts())
    if num_placeholders != len(record.images):
        raise ValueError(
            f"expected one {IMAGE_PLACEHOLDER} for each of {len(record.images)} images, got {num_placeholders}"
        )
    return [_decode_image(image, number, record.id) for number, image in enumerate(record.images, start=1)]


def _encoded(image: bytes | str | os.PathLike | Image.Image) -> bytes:
    """The encoded file of an image: given, read, or made."""
    if isinstance(image, str | os.PathLike):
        return Path(image).read_bytes()
    if isinstance(image, Image.Image):
        image.save(file := io.BytesIO(), format="PNG")
        return file.getvalue()
    return image


def _decode_image(encoded: bytes, number: int, record_id: str) -> Image.Image:
    try:
        return open_picture(encoded, name=f"image {number} of record {record_id!r}")
    except ValueError as error:
        raise ValueError(f"image {number} ({len(encoded)} bytes) is unreadable: {error}") from error
