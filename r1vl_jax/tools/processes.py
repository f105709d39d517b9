"""Calls functions of the user's in processes of their own, with a time limit: what fails or hangs there ends there."""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from PIL import Image

_STARTUP_LIMIT_S = 120.0
_MAX_REASON = 500  # characters that are kept of an exception's message


@dataclass(frozen=True)
class Call:
    """A call of a function.

    Attributes:
        name: of the function: "module:function".
        arguments: by name.
    """

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What a call gave.

    Attributes:
        parts: texts and pictures, in order.
        failure: why there are none; "" if there are.
    """

    parts: tuple[str | Image.Image, ...] = ()
    failure: str = ""


class ToolProcesses:
    """Processes that call functions; they start when they are first needed, and end with this one."""

    def __init__(self, names: Sequence[str], *, num_processes: int, timeout_s: float):
        """Starts no process yet.

        Args:
            names: of the functions, each "module:function".
            num_processes: calls that run at a time.
            timeout_s: seconds after which a call fails, and its process is killed and replaced.
        """
        self._timeout_s = timeout_s
        self._num_processes = num_processes
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        for _ in range(num_processes):
            self._idle.put(_Process(tuple(names)))

    def call(self, calls: Sequence[Call]) -> list[Result]:
        """The result of each call; they run side by side, in no order.

        Raises:
            RuntimeError: a process did not start.
        """
        with ThreadPoolExecutor(self._num_processes) as threads:
            return list(threads.map(self._call, calls))

    def close(self) -> None:
        """Ends the processes; a later call starts new ones."""
        for _ in range(self._num_processes):
            process = self._idle.get()
            process.kill()
            self._idle.put(process)

    def _call(self, call: Call) -> Result:
        process = self._idle.get()
        try:
            return process.call(call, self._timeout_s)
        finally:
            self._idle.put(process)


@dataclass
class _Process:
    names: tuple[str, ...]
    _popen: subprocess.Popen | None = field(default=None, init=False)
    _connection: Any = field(default=None, init=False)

    def call(self, call: Call, timeout_s: float) -> Result:
        if self._popen is None:
            self._start()
        try:
            self._connection.send((call.name, call.arguments))
            if not self._connection.poll(timeout_s):
                self.kill()
                return Result(failure=f"it took more than {timeout_s:g} seconds")
            returned, failure = self._connection.recv()
        except (EOFError, OSError):
            self.kill()
            return Result(failure="its process ended")
        except Exception as error:  # arguments that cannot be sent, or results that cannot be received
            self.kill()
            return Result(failure=f"{type(error).__name__}: {error}"[:_MAX_REASON])
        return Result(failure=failure[:_MAX_REASON]) if failure else _check(returned)

    def kill(self) -> None:
        if self._popen is not None:
            self._connection.close()
            self._popen.kill()
            self._popen.wait()
            self._popen = None

    def _start(self) -> None:
        self._connection, other_end = multiprocessing.Pipe()
        self._popen = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("worker.py")), str(other_end.fileno())],
            pass_fds=[other_end.fileno()],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},  # the accelerator is the run's
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C interrupts the run only
        )
        other_end.close()
        started = time.monotonic()
        try:
            self._connection.send((sys.path, self.names))
            is_ready = self._connection.poll(_STARTUP_LIMIT_S) and self._connection.recv() == "ready"
        except (EOFError, OSError):
            is_ready = False
        if not is_ready:
            self.kill()
            raise RuntimeError(
                f"the process of {', '.join(self.names)} did not start within {time.monotonic() - started:.0f} seconds;"
                " see its message above"
            )


def _check(returned: Any) -> Result:
    """A text, a number, a picture, or several of them; anything else is a failure."""
    parts = returned if isinstance(returned, list | tuple) else [returned]
    parts = [str(part) if isinstance(part, int | float) else part for part in parts]
    wrong = [part for part in parts if not isinstance(part, str | Image.Image)]
    if wrong or not parts:
        return Result(failure=f"expected texts or pictures, got {returned!r:.200}")
    return Result(tuple(parts))
