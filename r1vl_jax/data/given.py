"""Pictures and videos as `Record.make` takes them: paths, encoded files or images in memory, one or several."""

import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

Picture = bytes | str | os.PathLike | Image.Image

_EXPECTED = "paths, encoded image files (bytes) or images in memory"


def encode_pictures(given: Any, *, name: str = "images") -> tuple[bytes, ...]:
    """The encoded files of one picture or several; what is no picture stays as it is.

    Args:
        name: of the field, for errors.

    Raises:
        ValueError, OSError: there are none to go through, or one cannot be read or encoded.
    """
    return (_encode(given),) if _is_picture(given) else tuple(map(_encode, _items(name, given)))


def encode_frames(given: Any) -> list[tuple[bytes, ...]]:
    """The encoded frames of each video; a picture, or a list of pictures, is one video.

    Raises:
        ValueError, OSError: as `encode_pictures`.
    """
    items = [given] if _is_picture(given) else _items("videos", given)
    videos = [items] if items and all(map(_is_picture, items)) else items
    return [encode_pictures(frames, name="videos") for frames in videos]


def list_rates(given: Any, number: int) -> list[Any]:
    """The rate of each of `number` videos, from one for all of them, or one for each.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(given, int | float):
        return [given] * number
    return _items("fps", given, "a number, or one for each video")


def _is_picture(value: Any) -> bool:
    return isinstance(value, Picture)


def _items(name: str, given: Any, expected: str = f"one or several of {_EXPECTED}") -> list[Any]:
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise ValueError(f"field {name!r}: expected {expected}, got {given!r:.60} ({type(given).__name__})")
    return list(given)


def _encode(picture: Picture) -> bytes:
    """The encoded file of a picture: given, read, or made."""
    if isinstance(picture, str | os.PathLike):
        try:
            return Path(picture).read_bytes()
        except ValueError as error:  # a null character
            raise ValueError(f"path {os.fspath(picture)!r}: {error}") from error
    if isinstance(picture, Image.Image):
        picture.save(file := io.BytesIO(), format="PNG")
        return file.getvalue()
    return picture
