"""The program of a tool's process: receives calls, sends what the function returned or why there is nothing.

    python -P worker.py FILE_DESCRIPTOR

It runs as a script, so that it imports the user's module and nothing of this package. It ends with the process that
started it, even while a function runs.
"""

import functools
import importlib
import io
import numbers
import os
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

from PIL import Image

_MAX_TEXT, _MAX_PIXELS = 100_000, 16_000_000  # characters of a result, pixels of a picture
_MAX_RATIO = 200  # of a picture's sides, as Qwen's image processors have it


def main(descriptor: int) -> None:
    """Serves until the other end closes."""
    os.set_inheritable(descriptor, False)
    parent, own = os.getppid(), os.getpid()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    connection = Connection(descriptor)
    sys.path[:], names = connection.recv()
    functions = {name: _import(name) for name in names}
    connection.send("ready")
    while True:
        try:
            number, name, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = (_check(functions[name](**arguments)), "")
        except (Exception, SystemExit) as error:
            answer = ([], f"{type(error).__name__}: {error}")
        if os.getpid() != own:  # the function has forked: the answer is the parent's to give
            os._exit(0)
        connection.send((number, *answer))


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _import(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))


def _check(returned: Any) -> list[str | bytes]:
    """Texts, and pictures as PNG files, of a text, a number, a picture, or several of them.

    Raises:
        ValueError: it is something else, or too large.
    """
    parts = returned if isinstance(returned, list | tuple) else [returned]
    if not parts or not all(isinstance(part, str | numbers.Number | Image.Image) for part in parts):
        raise ValueError(f"expected texts, numbers or pictures, got {returned!r:.200}")
    checked = [_encode(part) if isinstance(part, Image.Image) else str(part) for part in parts]
    length = sum(len(part) for part in checked if isinstance(part, str))
    if length > _MAX_TEXT:
        raise ValueError(f"a result of {length:,} characters; at most {_MAX_TEXT:,} are taken")
    return [part.encode("utf-8", "replace").decode() if isinstance(part, str) else part for part in checked]


def _encode(picture: Image.Image) -> bytes:
    width, height = picture.size
    if not 0 < width * height <= _MAX_PIXELS or max(width, height) > _MAX_RATIO * min(width, height):
        raise ValueError(
            f"a picture of {width} x {height} pixels; expected 1 to {_MAX_PIXELS:,} pixels, and a side of at most"
            f" {_MAX_RATIO} times the other"
        )
    file = io.BytesIO()
    picture = picture if picture.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16") else picture.convert("RGB")
    picture.save(file, "png")
    return file.getvalue()


if __name__ == "__main__":
    main(int(sys.argv[1]))
    os._exit(0)  # whatever threads the user's code has started
