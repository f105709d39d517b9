"""The schema of a training or evaluation record, and whether a record is valid."""

import contextlib
import hashlib
import io
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
    """A question about one or more images, with its reference answer.

    Lists become tuples, and key steps in any layout of `parse_key_steps` become groups. Values of other types stay as
    they are: `invalid_reason` names them.

    Attributes:
        id: unique within its split, not empty; error messages name the record by it.
        images: encoded image files (PNG, JPEG, ...), in the order of their placeholders; none for text alone.
        problem: the question, with one `<image>` placeholder for each image.
        solution: a worked solution, or only the answer if there is none.
        answer: the reference answer; empty only with a response, for supervised fine-tuning alone.
        key_steps: key steps of the solution, each as a group of equivalent spellings.
        response: target completion for supervised fine-tuning; empty for reinforcement learning.
        kind: type of question; accuracy is also reported per kind.
        source: name of the data set that the record comes from.
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
    ) -> "Record":
        """A valid record; all that is not given has a default.

        Args:
            problem: without any `<image>`, one for each image is put first.
            images: encoded files, paths of files, or images in memory.
            answer: needed, unless there is a response.
            key_steps: in any layout of `parse_key_steps`.
            solution: by default the answer.
            id: by default a digest of the content.

        Raises:
            UnusableRecord: the record is invalid; says what is wrong with it.
        """
        try:
            encoded = tuple(map(_encoded, images))
            if isinstance(problem, str):
                problem, encoded, _ = match_placeholders(problem, encoded)
            content = hashlib.sha256(repr((problem, encoded, answer, response)).encode("utf-8", "replace")).hexdigest()
            record = cls(
                id=id or content[:16],
                images=tuple(encoded),
                problem=problem,
                solution=solution or (answer if isinstance(answer, str) else ""),
                answer=answer,
                key_steps=key_steps,
                response=response,
                kind=kind,
                source=source,
            )
        except (ValueError, OSError) as error:
            raise UnusableRecord(id or "without id", str(error)) from error
        if (reason := invalid_reason(record)) is not None:
            raise UnusableRecord(record.id, reason)
        return record

    def __post_init__(self) -> None:
        if isinstance(self.images, list):
            object.__setattr__(self, "images", tuple(self.images))
        with contextlib.suppress(ValueError):
            object.__setattr__(self, "key_steps", parse_key_steps(self.key_steps))


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
    if _VIDEO_PLACEHOLDER in record.problem:
        raise ValueError(f"records hold still images, and its problem has {_VIDEO_PLACEHOLDER}; give frames as images")
    num_placeholders = record.problem.count(IMAGE_PLACEHOLDER)
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
