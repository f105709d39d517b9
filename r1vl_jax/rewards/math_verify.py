"""Compares answers with the math-verify library, in worker processes with a hard limit of processor time.

math-verify's own timeout is an alarm of the main thread: it does not interrupt a long computation inside C code, and
users report hangs. Here a worker that exceeds its limit is killed and replaced, and the answer counts as wrong. The
limit is on processor time, so that a verdict does not depend on the load of the machine.

Not pebble's ProcessPool (5.2.3): its limit is wall time; a worker that is killed while idle, as by the out-of-memory
killer, breaks the whole pool; and its workers import the parent's main module, and with it JAX (211 MiB a worker and
3.7 s to the first verdict, here 58 MiB and 1.4 s).
"""

import collections
import contextlib
import multiprocessing
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path

AnswerPair = tuple[str, str]  # gold answer, prediction

_STARTUP_LIMIT_S = 120.0
_WALL_TIME_FACTOR = 6.0  # wall-time limit as a multiple of the processor-time limit, for a worker that blocks
_MAX_CACHED = 65_536


@dataclass(frozen=True)
class Verdict:
    """The outcome of one comparison.

    Attributes:
        is_correct: whether the prediction is equivalent to the gold answer.
        reason: "equal"; or "different", "unparsable", "timeout", "crashed".
    """

    is_correct: bool
    reason: str


class Judge:
    """Decides whether answers are equivalent; a context manager around its workers, which start when first needed.

    Attributes:
        reasons: how often each reason occurred; cached verdicts are not counted again.
    """

    def __init__(self, num_workers: int = 1, timeout_s: float = 5.0):
        """Starts no worker yet.

        Args:
            num_workers: comparisons that run in parallel.
            timeout_s: seconds of processor time after which a worker is killed and the answer counts as wrong.
        """
        self.reasons: collections.Counter[str] = collections.Counter()
        self._num_workers = num_workers
        self._timeout_s = timeout_s
        self._workers: list[_Worker] = []
        self._cache: dict[AnswerPair, Verdict] = {}

    def __enter__(self) -> "Judge":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Kills all workers. The judge can be used again; it then starts new ones."""
        while self._workers:
            self._workers.pop().kill()

    def verify(self, pairs: Sequence[AnswerPair]) -> list[Verdict]:
        """Compares every (gold answer, prediction), in parallel; verdicts are cached.

        Raises:
            RuntimeError: a worker could not start.
        """
        if len(self._cache) > _MAX_CACHED:
            self._cache.clear()
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._cache]
        try:
            self._run_queue(collections.deque(new))
        except BaseException:
            self.close()  # a busy worker's verdict would be taken for that of the next pair
            raise
        return [self._cache[pair] for pair in pairs]

    def _run_queue(self, waiting: collections.deque[AnswerPair]) -> None:
        while waiting or any(worker.pair for worker in self._workers):
            while waiting and (worker := self._idle_worker()):
                worker.submit(waiting.popleft())
            for worker in _wait_for_events([worker for worker in self._workers if worker.pair]):
                if reason := worker.poll():
                    self._record(worker, reason)

    def _idle_worker(self) -> "_Worker | None":
        for worker in self._workers:
            if worker.pair is None:
                return worker
        if len(self._workers) < self._num_workers:
            self._workers.append(_Worker(self._timeout_s))
            return self._workers[-1]
        return None

    def _record(self, worker: "_Worker", reason: str) -> None:
        assert worker.pair is not None
        self._cache[worker.pair] = Verdict(reason == "equal", reason)
        self.reasons[reason] += 1
        worker.pair = None
        if reason in ("timeout", "crashed"):
            self._workers.remove(worker)
            worker.kill()


class _Worker:
    """One process, the pair that it compares (None while idle), and its deadline in wall time."""

    def __init__(self, timeout_s: float):
        self.pair: AnswerPair | None = None
        self.connection, worker_end = multiprocessing.Pipe()
        self._timeout_s = timeout_s
        self._is_ready = False
        self.deadline = time.monotonic() + _STARTUP_LIMIT_S
        program = str(Path(__file__).with_name("math_verify_worker.py"))
        self._process = subprocess.Popen(
            [sys.executable, "-P", program, str(worker_end.fileno()), str(timeout_s)],
            pass_fds=[worker_end.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C interrupts the parent only
        )
        worker_end.close()

    def submit(self, pair: AnswerPair) -> None:
        self.pair = pair
        if self._is_ready:
            self.deadline = time.monotonic() + _WALL_TIME_FACTOR * self._timeout_s
        with contextlib.suppress(OSError):  # if the worker is dead, `poll` finds out
            self.connection.send(pair)

    def poll(self) -> str | None:
        """The reason of the verdict, once there is one: the worker's message, or its exit or timeout."""
        try:
            message = self.connection.recv() if self.connection.poll() else None
        except (EOFError, OSError):
            message = "timeout" if self._process.wait() == -signal.SIGPROF else "crashed"
        if message is None and time.monotonic() >= self.deadline:
            message = "timeout"
        if self._is_ready or message is None:
            return message
        if message != "ready":
            raise RuntimeError(
                f"a math-verify worker did not start ({message}); see its message above, and check that"
                f" `{sys.executable} -c 'import math_verify'` works"
            )
        self._is_ready = True
        self.deadline = time.monotonic() + _WALL_TIME_FACTOR * self._timeout_s
        return None

    def kill(self) -> None:
        self.connection.close()
        self._process.kill()
        self._process.wait()


def _wait_for_events(busy: list[_Worker]) -> list[_Worker]:
    """Blocks until a worker has sent a message or passed its deadline; returns those workers."""
    timeout_s = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
    ready = connection.wait([worker.connection for worker in busy], timeout=timeout_s)
    return [worker for worker in busy if worker.connection in ready or time.monotonic() >= worker.deadline]
