"""In the process of a side: answers each request, a line on standard input, with a line of JSON."""

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

Timings = dict[str, Any]


class Side(Protocol):
    """An implementation of the work.

    Attributes:
        compile_s: seconds of compilation so far.
    """

    @property
    def compile_s(self) -> float: ...

    def check(self) -> dict[str, Any]:
        """Results that must agree with the other sides'; called before the first repeat."""
        ...

    def repeat(self) -> Timings:
        """Does the work once and returns the seconds of each part."""
        ...

    def device_peak_gib(self) -> float | None:
        """Peak memory of the accelerator; None without one."""
        ...


class Stopwatch:
    """Seconds of named parts: `with watch("update"): ...`; of a part done several times, the mean."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str, *, times: int = 1) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = (time.perf_counter() - start) / times

    def timings(self, num_tokens: Iterable[int]) -> Timings:
        """The answer to a request; `num_tokens` are the completion tokens of each generation."""
        return {"seconds": self.seconds, "num_tokens": sorted(set(num_tokens))}


class Channel:
    """Requests on standard input, answers as JSON lines; redirects other output of libraries to standard error.

    Attributes:
        libraries_gib: memory of the process after imports.
    """

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.libraries_gib = peak_memory_gib()

    def send_ready(self, check: dict[str, Any], *, compile_s: float = 0.0) -> None:
        """The first answer, after the check and the warm-up."""
        self._send({"check": check, "ready_s": time.perf_counter() - self._start, "compile_s": compile_s})

    def wait_for_request(self) -> bool:
        """Waits for a request; False if the side is to end."""
        return sys.stdin.readline().strip() == "repeat"

    def send_timings(self, timings: Timings) -> None:
        self._send(timings)

    def send_memory(self, device_gib: float | None) -> None:
        """The last answer: peak memory of the process, and of the accelerator if there is one."""
        device = {} if device_gib is None else {"device": device_gib}
        self._send({"memory_gib": {"peak": peak_memory_gib(), "libraries": self.libraries_gib} | device})

    def _send(self, answer: dict[str, Any]) -> None:
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()


def serve_requests(side: Side, channel: Channel) -> None:
    """Checks, warms up, then does a repeat per request."""
    check = side.check()
    side.repeat()
    channel.send_ready(check, compile_s=side.compile_s)
    while channel.wait_for_request():
        channel.send_timings(side.repeat())
    channel.send_memory(side.device_peak_gib())


def peak_memory_gib() -> float:
    """Peak resident memory of this process; without /proc, its parent's may count."""
    status = Path("/proc/self/status")
    if status.exists():
        (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())
        return int(peak) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
