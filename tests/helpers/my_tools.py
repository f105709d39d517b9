"""Tools as a user writes them; some fail."""

import os
import subprocess
import sys
import time

from PIL import Image


def double(number: int) -> int:
    """Doubles a number.

    Args:
        number: to double.
    """
    return 2 * number


def fail(number: int) -> str:
    """Fails.

    Args:
        number: of the failure.
    """
    raise KeyError(number)


def hang(seconds: float) -> str:
    """Takes its time.

    Args:
        seconds: to sleep.
    """
    start = time.monotonic()
    time.sleep(seconds)
    return f"{start} {time.monotonic()}"


def exit_at_once(code: int) -> str:
    """Ends its process.

    Args:
        code: of the exit.
    """
    os._exit(code)


def nonsense(number: int) -> dict:
    """Returns what is no text.

    Args:
        number: of values.
    """
    return {"number": number}


def unsendable(number: int) -> object:
    """Returns what no other process can have.

    Args:
        number: unused.
    """
    return lambda: number


def invert(images: list[Image.Image]) -> list:
    """Inverts the last picture.

    Args:
        images: the pictures so far.
    """
    return ["inverted:", images[-1].point(lambda value: 255 - value)]


def fork(number: int) -> str:
    """Forks; both go on.

    Args:
        number: unused.
    """
    return f"child {os.fork()}"


def start_another(seconds: float) -> str:
    """Starts a program and waits for it.

    Args:
        seconds: that it takes.
    """
    subprocess.run(["sleep", str(seconds)], check=True)
    return "done"


def power(exponent: int) -> int:
    """A power of ten.

    Args:
        exponent: of it.
    """
    return 10**exponent


def repeat(text: str, times: int) -> str:
    """Repeats a text.

    Args:
        text: to repeat.
        times: how often.
    """
    return text * times


def draw(mode: str, width: int, height: int) -> Image.Image:
    """An empty picture.

    Args:
        mode: of Pillow.
        width: in pixels.
        height: in pixels.
    """
    return Image.new(mode, (width, height))


def leave(reason: str) -> None:
    """Exits with a reason.

    Args:
        reason: of it.
    """
    sys.exit(reason)


def undescribed(number):
    return number
