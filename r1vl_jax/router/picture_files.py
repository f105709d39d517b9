"""Pictures of other people's data sets, found below a directory by the path, the URL or the id that a row has.

WebQA has all its pictures in one file: `imgs.tsv`, a line of id and base64 for each, and `imgs.lineidx`, where in it
the line of each begins; the number of the line is the id's last seven digits.
"""

import base64
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from r1vl_jax.data.sources.pictures import read_picture

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".JPG", ".JPEG", ".PNG")
_MAX_PATH = 1_000  # characters; a longer text is a picture in base64
_TABLE, _TABLE_LINES, _MAX_LINES = "imgs.tsv", "imgs.lineidx", 10_000_000


class PictureFiles:
    """The picture files below a directory.

    Args:
        root: searched, with what is below it.
    """

    def __init__(self, root: Path):
        self._root = root

    def read(self, cell: Any) -> bytes:
        """The encoded file of a cell: a path, or a picture in any other form of `read_picture`.

        A path of another machine is found by the longest end of it that is a file here.

        Raises:
            ValueError: there is none.
        """
        if not isinstance(cell, str) or len(cell) > _MAX_PATH or cell.startswith("data:"):
            return read_picture(cell, self._root)
        return self._read(self._by_end(cell, min_parts=1), cell)

    def read_url(self, url: str, name: str) -> bytes:
        """The encoded file that was downloaded from a URL: NAME.jpg, or the end of the URL with at least a directory.

        Raises:
            ValueError: there is none.
        """
        return self._read(self._by_name(name) or self._by_end(url, min_parts=2), f"{name} of {url}")

    def read_named(self, name: str) -> bytes:
        """The encoded file of this name, without its suffix, anywhere below the directory, or in WebQA's one file.

        Raises:
            ValueError: there is none.
        """
        if self._line_starts and name.isdecimal():
            return self._read_line(name)
        return self._read(self._by_name(name) or self._path_of_name.get(name), name)

    def _read_line(self, name: str) -> bytes:
        number = int(name) % _MAX_LINES
        if number < len(self._line_starts):
            with (self._root / _TABLE).open("rb") as file:
                file.seek(self._line_starts[number])
                found, _, encoded = file.readline().decode("ascii", "replace").strip().partition("\t")
            if found == name:
                return base64.b64decode(encoded)
        raise ValueError(f"picture {name!r}: not in line {number} of {self._root / _TABLE}, counted from 0")

    def _read(self, path: Path | None, name: str) -> bytes:
        if path is None:
            raise ValueError(f"picture {name!r:.200}: no such file below {str(self._root)!r}; set --images")
        return path.read_bytes()

    def _by_end(self, path: str, *, min_parts: int) -> Path | None:
        parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
        ends = (parts[start:] for start in range(len(parts) - min_parts + 1))
        return next((found for end in ends if (found := self._root.joinpath(*end)).is_file()), None)

    def _by_name(self, name: str) -> Path | None:
        if PurePosixPath(name).name != name:
            return None
        paths = (self._root / f"{name}{suffix}" for suffix in _SUFFIXES)
        return next((path for path in paths if path.is_file()), None)

    @cached_property
    def _line_starts(self) -> list[int]:
        path = self._root / _TABLE_LINES
        return [int(line) for line in path.read_text().split()] if path.is_file() else []

    @cached_property
    def _path_of_name(self) -> dict[str, Path]:
        paths = (path for path in sorted(self._root.rglob("*")) if path.suffix in _SUFFIXES)
        return {path.stem: path for path in paths}
