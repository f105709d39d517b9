"""The fields of a record: whether each has its type, and how they are read from a row of `tensorflow_datasets`."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from r1vl_jax.rewards.key_steps import parse_key_steps

TEXTS = ("id", "problem", "answer", "solution", "response", "kind", "source", "system")
# Columns that data sets of earlier versions lack, with what they would hold.
_ADDED = {"system": b"", "history": (), "videos": (), "fps": (), "other_answers": ()}


def check(record: Any) -> None:
    """Checks the types of a record's fields.

    Raises:
        ValueError: names the first field that has another type, with what was expected and found.
    """
    for name in ("images", "key_steps", "history", "videos", "fps", "other_answers", *TEXTS):
        if not hasattr(record, name):
            raise ValueError(f"expected a Record, got {_show(record)}")
    for name in TEXTS:
        check_text(name, getattr(record, name))
    if not record.id:
        raise ValueError("field 'id': expected a text that names the record, got ''")
    _check_images("images", record.images, "image")
    check_videos(record.videos, record.fps)
    check_history(record.history)
    _check_other_answers(record.other_answers)
    try:
        groups = parse_key_steps(record.key_steps)
    except ValueError as error:
        raise ValueError(f"field 'key_steps': {error}") from None
    for group in groups:
        for spelling in group:
            check_text("key_steps", spelling)


def from_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record from a row, whose texts are bytes of UTF-8.

    Raises:
        ValueError: names the column that is not there or has another type.
    """
    row = {name: cell for name, cell in _ADDED.items() if name not in row} | dict(row)
    columns: dict[str, Any] = {name: _decode(name, row.get(name)) for name in TEXTS}
    images = _items("images", row.get("images"), "encoded image files (bytes)")
    groups = {"key_steps": "groups of texts", "history": "pairs of texts"}
    for name, expected in groups.items():
        columns[name] = [_decode_group(name, group) for group in _items(name, row.get(name), expected)]
    videos = [tuple(_items("videos", frames, "frames")) for frames in _items("videos", row["videos"], "videos")]
    fps = [float(rate) for rate in _items("fps", row["fps"], "numbers")]
    others = [_decode("other_answers", text) for text in _items("other_answers", row["other_answers"], "texts")]
    columns |= {"images": tuple(images), "videos": tuple(videos), "fps": tuple(fps)}
    return columns | {"other_answers": tuple(others)}


def as_tuples(value: Any) -> Any:
    """A list, and the lists in it, as tuples."""
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value


def check_text(name: str, value: Any) -> None:
    """Checks that a field is a text which UTF-8 can write. Raises ValueError, as `check`."""
    if not isinstance(value, str):
        raise ValueError(f"field {name!r}: expected text (str), got {_show(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"field {name!r}: expected text that UTF-8 can write, got {value[error.start]!r}, half of a surrogate pair,"
            f" as character {error.start} (counted from 0)"
        ) from None


def _check_images(name: str, images: Any, what: str) -> None:
    if not isinstance(images, tuple):
        raise ValueError(f"field {name!r}: expected a tuple of encoded image files (bytes), got {_show(images)}")
    for number, image in enumerate(images, start=1):
        if not isinstance(image, bytes):
            raise ValueError(
                f"field {name!r}: expected encoded image files (bytes), got {_show(image)} as {what} {number}; give the"
                " bytes of the file, as Path(...).read_bytes() reads them"
            )


def check_videos(videos: Any, fps: Any) -> None:
    """Checks that there are frames of each video, and a rate. Raises ValueError, as `check`."""
    if not isinstance(videos, tuple) or not all(videos):
        raise ValueError(f"field 'videos': expected a tuple of videos, each of at least one frame, got {_show(videos)}")
    for number, frames in enumerate(videos, start=1):
        _check_images("videos", frames, f"video {number}, frame")
    if not isinstance(fps, tuple) or len(fps) != len(videos) or not all(map(_is_rate, fps)):
        raise ValueError(
            f"field 'fps': expected a number of frames a second above 0 for each of {len(videos)} videos, got"
            f" {_show(fps)}"
        )


def _is_rate(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def check_history(history: Any) -> None:
    """Checks that earlier turns are pairs of texts. Raises ValueError, as `check`."""
    if not isinstance(history, tuple):
        raise ValueError(f"field 'history': expected a tuple of questions with their answers, got {_show(history)}")
    for number, turns in enumerate(history, start=1):
        if not isinstance(turns, tuple) or len(turns) != 2:
            raise ValueError(f"field 'history': expected a question and its answer, got {_show(turns)} as {number}")
        for text in turns:
            check_text("history", text)


def _check_other_answers(answers: Any) -> None:
    if not isinstance(answers, tuple):
        raise ValueError(f"field 'other_answers': expected a tuple of texts, got {_show(answers)}")
    for answer in answers:
        check_text("other_answers", answer)


def _items(name: str, value: Any, expected: str) -> Iterable[Any]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise ValueError(f"field {name!r}: expected a sequence of {expected}, got {_show(value)}")
    return value


def _decode_group(name: str, group: Any) -> list[str]:
    is_bare = isinstance(group, str | bytes)
    return [_decode(name, text) for text in ([group] if is_bare else _items(name, group, "texts"))]


def _decode(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, bytes):
        raise ValueError(f"field {name!r}: expected text, got {_show(value)}")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"field {name!r}: expected text in UTF-8, got {_show(value)} ({error.reason})") from None


def _show(value: Any) -> str:
    """A value, shortened, with its type."""
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:60] + '...'} ({type(value).__name__})"
