"""Calls functions of the user's in processes of their own, with a time limit: what fails or hangs there ends there."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from PIL import Image

from r1vl_jax.data.pictures import open_picture

# The accelerator is the run's.
_WITHOUT_ACCELERATOR = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
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
        """The result of each call; they run side by side, in no order."""
        with ThreadPoolExecutor(self._num_processes) as threads:
            return list(threads.map(self._call, calls))

    def start(self) -> None:
        """Starts one process, so that what cannot be imported there is seen at once.

        Raises:
            RuntimeError: it did not start.
        """
        process = self._idle.get()
        try:
            process.start()
        finally:
            self._idle.put(process)

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
    _number: int = field(default=0, init=False)

    def call(self, call: Call, timeout_s: float) -> Result:
        try:
            if self._popen is None:
                self.start()
            return self._call(call, timeout_s)
        except (EOFError, OSError, RuntimeError):
            self.kill()
            return Result(failure="its process ended, or did not start")
        except Exception as error:  # arguments that cannot be sent, or answers of another program
            self.kill()
            return Result(failure=f"{type(error).__name__}: {error}"[:_MAX_REASON])

    def _call(self, call: Call, timeout_s: float) -> Result:
        self._number += 1
        # A tool that holds the other end can block sending and receiving: the end of time closes both.
        timer = threading.Timer(timeout_s, self._kill_group)
        timer.start()
        try:
            self._connection.send((self._number, call.name, call.arguments))
            number, parts, failure = self._connection.recv()
            while number != self._number:
                number, parts, failure = self._connection.recv()
        except (EOFError, OSError):
            if timer.finished.is_set():
                self.kill()
                return Result(failure=f"it took more than {timeout_s:g} seconds")
            raise
        finally:
            timer.cancel()
        if failure:
            return Result(failure=failure[:_MAX_REASON])
        return Result(tuple(open_picture(p, name="a result") if isinstance(p, bytes) else p for p in parts))

    def start(self) -> None:
        """Starts the process and waits until it has imported the functions.

        Raises:
            RuntimeError: it did not start.
        """
        self._connection, other_end = multiprocessing.Pipe()
        self._popen = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("worker.py")), str(other_end.fileno())],
            pass_fds=[other_end.fileno()],
            env=os.environ | _WITHOUT_ACCELERATOR,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C interrupts the run only; and what a tool starts is killed with it
        )
        other_end.close()
        try:
            self._connection.send((sys.path, self.names))
            is_ready = self._connection.poll(_STARTUP_LIMIT_S) and self._connection.recv() == "ready"
        except (EOFError, OSError):
            is_ready = False
        if not is_ready:
            self.kill()
            raise RuntimeError(f"the process of {', '.join(self.names)} did not start; see its message above")

    def kill(self) -> None:
        """Ends the process with all that it has started."""
        if self._popen is not None:
            self._kill_group()
            self._connection.close()
            self._popen.wait()
            self._popen = None

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._popen is not None:
                os.killpg(self._popen.pid, signal.SIGKILL)
