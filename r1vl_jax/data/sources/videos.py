"""Cells that hold videos: files, directories of frames, or lists of frames, each a picture in any form."""

import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from PIL import Image

from r1vl_jax.data.sources.literals import parse_list
from r1vl_jax.data.sources.pictures import list_pictures, path_below, read_picture
from r1vl_jax.data.turns import FPS

_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".gif")
# Where an object has its video.
VIDEO_KEYS = ("video", "frames", "video_url", "url", "path", "bytes")
MAX_FRAMES = 32  # where nothing else is asked for
_LONGEST_NAME = 255
_NUMBERS = re.compile(r"(\d+)")
_QUALITY = 95  # of the JPEG files that frames are kept as


def list_videos(cell: Any) -> list[Any]:
    """The videos of a cell that holds one, several or none; a list of pictures is one video."""
    cell = parse_list(cell)
    cells = list_pictures(cell)
    return [cells] if isinstance(cell, list | tuple) and cells and all(map(_is_frame, cells)) else cells


def read_video(cell: Any, root: Path, *, max_frames: int, fps: Any = None) -> tuple[tuple[bytes, ...], float]:
    """The frames of a video as encoded files, read now, and how many a second there are.

    Args:
        cell: a path below `root`, of a file or of a directory of frames in the order of the numbers in their names; a
            list of pictures; or a mapping with one of these, and `fps` beside it.
        max_frames: of more, so many are taken at equal distances.
        fps: of frames that are given one by one; None is 2.

    Raises:
        ValueError: it is none of these, a picture of it cannot be read, or the file is no video.
        ModuleNotFoundError: it is a file, and PyAV is not installed.
    """
    if isinstance(cell, Mapping):
        held = [cell[key] for key in VIDEO_KEYS if cell.get(key)]
        if not held:
            raise ValueError(f"a video: expected one of {', '.join(VIDEO_KEYS)}, got the keys {sorted(map(str, cell))}")
        return read_video(held[0], root, max_frames=max_frames, fps=fps if cell.get("fps") is None else cell["fps"])
    if isinstance(cell, bytes):
        return _decode_file(io.BytesIO(cell), "in the row", max_frames)
    if isinstance(cell, str):
        path = path_below(cell, root, "video")
        if not os.path.isdir(path):
            return _decode_file(path, repr(cell), max_frames)
        cell = [str(file.absolute()) for file in _frame_files(path)]
    if not isinstance(cell, list | tuple) or not cell:
        raise ValueError(f"a video: expected a file, a directory of frames or a list of them, got {cell!r:.60}")
    rate = FPS if fps is None else fps
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not rate > 0:
        raise ValueError(f"a video: expected fps as a number of frames a second above 0, got {fps!r:.60}")
    taken = _evenly_spaced(cell, max_frames)
    return tuple(read_picture(frame, root) for frame in taken), rate * len(taken) / len(cell)


def _is_frame(cell: Any) -> bool:
    """Whether a cell is a picture, and not a video by itself."""
    if isinstance(cell, Mapping):
        is_video = any(cell.get(key) for key in ("video", "frames", "video_url"))
        return not is_video and _is_frame(cell.get("path") or cell.get("url") or b"")
    if not isinstance(cell, str) or len(cell) > _LONGEST_NAME:
        return not isinstance(cell, list | tuple)
    return cell.startswith("data:") or PurePath(cell).suffix.lower() not in ("", *_SUFFIXES)


def _frame_files(directory: Path) -> list[Path]:
    """The pictures of a directory; `frame2.png` comes before `frame10.png`."""
    known = Image.registered_extensions()
    files = [path for path in directory.iterdir() if path.suffix.lower() in known]
    if not files:
        raise ValueError(f"a video: the directory {directory.name!r} has no pictures")
    return sorted(files, key=_by_numbers)


def _by_numbers(path: Path) -> list[str | int]:
    return [int(part) if place % 2 else part for place, part in enumerate(_NUMBERS.split(path.name))]


def _evenly_spaced(frames: Sequence[Any], number: int) -> list[Any]:
    """All of the frames, or else `number` of them, the first among them."""
    if len(frames) <= number:
        return list(frames)
    return [frames[place * len(frames) // number] for place in range(number)]


def _decode_file(file: Path | io.BytesIO, name: str, max_frames: int) -> tuple[tuple[bytes, ...], float]:
    try:
        import av  # an extra, since few data sets have videos
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"video {name} is a file, which PyAV decodes: pip install av (the extra [video]), or give a directory or a"
            " list of frames in place of the file"
        ) from error
    try:
        options = {"protocol_whitelist": "file"}  # a playlist must not reach the network
        with av.open(str(file) if isinstance(file, Path) else file, mode="r", options=options) as container:
            stream = container.streams.video[0]
            duration = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
            interval = max(1 / FPS, (duration or (container.duration or 0) / av.time_base) / max_frames)
            frames = [_encode(frame.to_image()) for frame in _sample(container.decode(stream), interval)]
            rate = min(1 / interval, float(stream.average_rate or FPS))
    except (av.FFmpegError, OSError, IndexError) as error:
        raise ValueError(f"video {name} cannot be read ({error}); expected a file that FFmpeg decodes") from error
    if not frames:
        raise ValueError(f"video {name} has no frames")
    taken = _evenly_spaced(frames, max_frames)
    return tuple(taken), rate * len(taken) / len(frames)


def _sample(frames: Iterator[Any], interval: float) -> Iterator[Any]:
    """The first frame at or after each multiple of the interval, in seconds from the first one."""
    start, number = None, 0
    for frame in frames:
        time = frame.time or 0.0
        start = time if start is None else start
        if time - start >= number * interval - 1e-6:  # rounding of times
            number += 1
            yield frame


def _encode(image: Image.Image) -> bytes:
    image.save(file := io.BytesIO(), "JPEG", quality=_QUALITY)
    return file.getvalue()
