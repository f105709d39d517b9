"""The schema of a training or evaluation record, and whether a record is valid."""

import contextlib
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from r1vl_jax.data import fields
from r1vl_jax.data.given import Picture, encode_frames, encode_pictures, list_rates
from r1vl_jax.data.pictures import open_picture
from r1vl_jax.data.placeholders import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER, match_placeholders
from r1vl_jax.data.turns import FPS, Video
from r1vl_jax.rewards.key_steps import parse_key_steps


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
    """A question about images, videos or text, with its reference answer; it may end a conversation.

    Lists become tuples, and key steps in any layout of `parse_key_steps` become groups. Values of other types stay as
    they are: `invalid_reason` names them.

    Attributes:
        id: unique within its split, not empty; error messages name the record by it.
        images: encoded image files (PNG, JPEG, ...), in the order of their placeholders; none for text alone.
        problem: the question, with one `<image>` placeholder for each image and one `<video>` for each video, unless
            `history` has it.
        solution: a worked solution, or only the answer if there is none.
        answer: the reference answer; empty only with a response, for supervised fine-tuning alone.
        key_steps: key steps of the solution, each as a group of equivalent spellings.
        response: target completion for supervised fine-tuning; empty for reinforcement learning.
        kind: type of question; accuracy is also reported per kind.
        source: name of the data set that the record comes from.
        system: the system prompt; "" leaves it to the chat template, which may have one of its own.
        history: earlier questions of the conversation, each with the assistant's answer; the first comes first.
        videos: frames of each video, encoded image files of one size, in the order of their placeholders.
        fps: frames a second of each video; 2 by default.
        other_answers: further answers that are right, too.
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
    videos: tuple[tuple[bytes, ...], ...] = ()
    fps: tuple[float, ...] = ()
    other_answers: tuple[str, ...] = ()

    @classmethod
    def make(
        cls,
        problem: str,
        *,
        images: Picture | Sequence[Picture] = (),
        answer: str = "",
        key_steps: Any = (),
        response: str = "",
        solution: str = "",
        id: str = "",
        kind: str = "",
        source: str = "",
        system: str = "",
        history: Sequence[Sequence[str]] = (),
        videos: Picture | Sequence[Picture] | Sequence[Sequence[Picture]] = (),
        fps: float | Sequence[float] = FPS,
        other_answers: Sequence[str] = (),
    ) -> "Record":
        """A valid record; all that is not given has a default.

        Args:
            problem: without any `<image>`, here or in the history, one for each image is put first; so is `<video>`.
            images: encoded files, paths of files, or images in memory; one alone needs no list.
            answer: needed, unless there is a response.
            key_steps: in any layout of `parse_key_steps`.
            solution: by default the answer.
            id: by default a digest of the content.
            history: pairs of a question and its answer.
            videos: frames of each, as `images`; a list of frames alone is one video.
            fps: frames a second, of all videos or of each.
            other_answers: further answers that are right, too.

        Raises:
            UnusableRecord: the record is invalid; says what is wrong with it.
        """
        try:
            encoded, clips = encode_pictures(images), encode_frames(videos)
            rates = list_rates(fps, len(clips))
            fields.check_videos(tuple(clips), tuple(rates))
            fields.check_history(history := fields.as_tuples(history))
            if isinstance(problem, str):
                texts, encoded, _ = match_placeholders([*itertools.chain(*history), problem], encoded)
                texts, order, _ = match_placeholders(texts, range(len(clips)), VIDEO_PLACEHOLDER)
                clips, rates = [clips[number] for number in order], [rates[number] for number in order]
                *_, problem = texts
                history = pair_turns(texts[:-1])
            content = repr((problem, encoded, answer, response, *filter(None, (system, history, clips, other_answers))))
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
                videos=tuple(clips),
                fps=tuple(rates),
                other_answers=fields.as_tuples(other_answers),
            )
        except (ValueError, OSError) as error:
            raise UnusableRecord(id or "without id", str(error)) from error
        if (reason := invalid_reason(record)) is not None:
            raise UnusableRecord(record.id, reason)
        return record

    def __post_init__(self) -> None:
        if self.videos and not self.fps:
            object.__setattr__(self, "fps", (FPS,) * len(self.videos))
        for name in ("images", "history", "videos", "fps", "other_answers"):
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
        decode_videos(record)
    except ValueError as error:
        return str(error)
    return None


def decode_images(record: Record) -> list[Image.Image]:
    """The images of a valid record, decoded by `pictures.open_picture`.

    Raises:
        ValueError: a field has another type, or the record has neither answer nor response, an unreadable image, or
            another number of placeholders than images or videos.
    """
    check(record)
    return [_decode(image, f"image {number}", record.id) for number, image in enumerate(record.images, start=1)]


def decode_videos(record: Record) -> list[Video]:
    """The videos of a valid record.

    Raises:
        ValueError: as `decode_images`, or a video has frames of several sizes.
    """
    check(record)
    pairs = zip(record.videos, record.fps, strict=True)
    return [_decode_video(frames, fps, number, record.id) for number, (frames, fps) in enumerate(pairs, start=1)]


def check(record: Record) -> None:
    """Checks all but the pictures themselves.

    Raises:
        ValueError: what is wrong with it.
    """
    fields.check(record)
    if not record.problem.strip():
        raise ValueError("its question is empty: expected a text in `problem`, or at least a picture's placeholder")
    if not record.answer.strip() and not record.response.strip():
        raise ValueError("it has no answer, and no response to train on")
    if record.other_answers and not record.answer.strip():
        raise ValueError("it has other answers, and none in `answer`")
    for placeholder, items in ((IMAGE_PLACEHOLDER, record.images), (VIDEO_PLACEHOLDER, record.videos)):
        number = sum(text.count(placeholder) for text in record.texts())
        if number != len(items):
            kind = placeholder.strip("<>")
            raise ValueError(f"expected one {placeholder} for each of {len(items)} {kind}s, got {number}")


def _decode(encoded: bytes, name: str, record_id: str) -> Image.Image:
    try:
        return open_picture(encoded, name=f"{name} of record {record_id!r}")
    except ValueError as error:
        raise ValueError(f"{name} ({len(encoded)} bytes) is unreadable: {error}") from error


def _decode_video(frames: Sequence[bytes], fps: float, number: int, record_id: str) -> Video:
    name = f"of video {number}"
    decoded = [_decode(frame, f"frame {place} {name}", record_id) for place, frame in enumerate(frames, start=1)]
    if len(sizes := {frame.size for frame in decoded}) > 1:
        raise ValueError(f"video {number}: expected frames of one size, got {sorted(sizes)}")
    return Video(decoded, fps)
