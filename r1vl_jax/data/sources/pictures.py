"""Cells that hold a picture: a path, the file's bytes, base64, a data URL, or an object with one of these."""

import base64
import binascii
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1vl_jax.data.sources.literals import parse_list

_DATA_URL = re.compile(r"data:[\w/+.-]*(?:;[\w=-]+)*;base64,")
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]{64,}={0,2}\s*")  # a path has a dot, or is shorter
_PICKLED_BYTES = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
_PICKLED_NAMES = (".pkl", ".pickle", ".pt", ".pth", ".npy", ".npz")
_KEYS = ("bytes", "path", "url", "image", "image_url", "data")


def list_pictures(cell: Any) -> list[Any]:
    """The pictures of a cell that holds one, several, also as the text of a list, or none."""
    cell = parse_list(cell)
    if cell is None or cell == "" or (isinstance(cell, float) and cell != cell):
        return []
    cells = cell if isinstance(cell, list | tuple) else [cell]
    return [each for each in cells if each is not None and each != ""]


def read_picture(cell: Any, root: Path) -> bytes:
    """The encoded file of a picture, read now.

    Args:
        cell: a path below `root`; the bytes of a file; its base64, also as a data URL; or a mapping with one of these,
            such as `{"bytes": None, "path": "a.png"}`.
        root: of relative paths.

    Raises:
        ValueError: it is a URL, leads out of `root`, is pickled, is no picture, or no file is there.
    """
    if isinstance(cell, Mapping):
        held = [cell[key] for key in _KEYS if cell.get(key)]
        if not held:
            raise ValueError(f"a picture: expected one of {', '.join(_KEYS)}, got the keys {sorted(map(str, cell))}")
        return read_picture(held[0], root)
    if isinstance(cell, bytes):
        if cell.startswith(_PICKLED_BYTES):
            raise ValueError("a picture is pickled, and reading that may run any program; give the image file")
        return cell
    if not isinstance(cell, str):
        raise ValueError(f"a picture: expected a path, bytes or base64, got {cell!r:.60} ({type(cell).__name__})")
    if match := _DATA_URL.match(cell):
        return _decode(cell[match.end() :])
    if "." not in cell and not _URL.match(cell) and _BASE64.fullmatch(cell):
        return _decode(cell)
    return _read_file(cell, root)


def _decode(text: str) -> bytes:
    standard = re.sub(r"\s", "", text).translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(f"a picture: expected base64, got {text[:40]!r} ({error})") from error


def path_below(name: str, root: Path, kind: str = "picture") -> Path:
    """The path of a file that a cell names.

    Raises:
        ValueError: it is a URL, leads out of `root`, is of a pickled file, or has characters that no path has.
    """
    if _URL.match(name):
        raise ValueError(f"a {kind} is a URL, {name[:80]!r}; download it, and give its path below data.images")
    if name.endswith(_PICKLED_NAMES):
        raise ValueError(f"{kind} {name!r} is pickled, and reading that may run any program; give a file of its own")
    if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in name):
        raise ValueError(f"{kind} {name!r}: a path has no null character and no half of a surrogate pair")
    root = Path(os.path.abspath(root))
    path = Path(os.path.abspath(root / name))  # a link below the root may lead where its owner wants
    if not path.is_relative_to(root):
        raise ValueError(
            f"{kind} {name!r} leads out of data.images={str(root)!r}; set data.images to a directory above"
        )
    return path


def _read_file(name: str, root: Path) -> bytes:
    try:
        return path_below(name, root).read_bytes()
    except OSError as error:
        raise ValueError(
            f"picture {name!r} cannot be read below data.images={os.path.abspath(root)!r} ({error.strerror}); set"
            " data.images to the directory that its path begins in"
        ) from error
