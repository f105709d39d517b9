"""The process of a side: it answers a line for every line it is sent, and measures what it does in between."""

import contextlib
import json
import os
import re
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

Figures = dict[str, Any]


class Side(Protocol):
    """Somebody's way to do the work.

    Attributes:
        compile_s: seconds spent compiling so far.
    """

    @property
    def compile_s(self) -> float: ...

    def check(self) -> dict[str, Any]:
        """What shows that the side computes what the others do; made before the first repeat."""
        ...

    def repeat(self) -> Figures:
        """Does the work once and says how long each part took."""
        ...

    def device_gib(self) -> float | None:
        """The most memory held on the accelerator; None where there is none."""
        ...


class Stopwatch:
    """Seconds of named parts: `with watch("update"): ...`; of what is done several times, those of once."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str, *, times: int = 1) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = (time.perf_counter() - start) / times

    def figures(self, num_tokens: Iterable[int]) -> Figures:
        """The answer to a line; `num_tokens` are the completion tokens of each generation that was made."""
        return {"seconds": self.seconds, "num_tokens": sorted(set(num_tokens))}


class Channel:
    """Lines of JSON to whoever started the process. What libraries print goes to standard error from now on.

    Attributes:
        libraries_gib: memory of the process before the side loads anything.
    """

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.libraries_gib = process_gib()

    def greet(self, check: dict[str, Any], *, compile_s: float = 0.0) -> None:
        """The first answer, when one repeat that is not counted has been made."""
        self._send({"check": check, "ready_s": time.perf_counter() - self._start, "compile_s": compile_s})

    def is_asked(self) -> bool:
        """Waits for a line; False when the side is to end."""
        return sys.stdin.readline().strip() == "repeat"

    def reply(self, figures: Figures) -> None:
        self._send(figures)

    def leave(self, device_gib: float | None) -> None:
        """The last answer: the most memory that was held; that of the accelerator, if there is one, apart."""
        device = {} if device_gib is None else {"device": device_gib}
        self._send({"memory_gib": {"peak": process_gib(), "libraries": self.libraries_gib} | device})

    def _send(self, answer: dict[str, Any]) -> None:
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()


def take_turns(side: Side, channel: Channel) -> None:
    """Checks, warms up, and then makes the repeats that are asked for."""
    check = side.check()
    side.repeat()
    channel.greet(check, compile_s=side.compile_s)
    while channel.is_asked():
        channel.reply(side.repeat())
    channel.leave(side.device_gib())


def process_gib() -> float:
    """The most memory that this process has held so far; where /proc is not, its parent's may count."""
    status = Path("/proc/self/status")
    if status.exists():
        (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())
        return int(peak) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
