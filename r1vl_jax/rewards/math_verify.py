"""Answers compared by math-verify, in worker processes with a hard limit.

math-verify's own limit is an alarm of the main thread, which does not stop a long computation inside C code, and users
report hangs. Here a worker that takes too long is killed and replaced, and the answer counts as wrong. The limit is on
processor time, so that a verdict does not depend on what else the machine does.
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

Question = tuple[str, str]  # reference, prediction

_STARTUP_LIMIT_S = 120.0
_PATIENCE = 6.0  # wall time, as a multiple of the limit, for a worker that waits for ever and uses no processor
_MAX_REMEMBERED = 65_536


@dataclass(frozen=True)
class Verdict:
    """What became of a question.

    Attributes:
        is_correct: whether the prediction is equivalent to the reference.
        reason: "equal"; or "different", "unparsable", "timeout", "crashed".
    """

    is_correct: bool
    reason: str


class Judge:
    """Decides whether answers are equivalent; a context manager around its workers, which start when first needed.

    Attributes:
        reasons: how often each reason was given, repeated questions not counted.
    """

    def __init__(self, num_workers: int = 1, timeout_s: float = 5.0):
        """Starts nothing yet.

        Args:
            num_workers: questions that are worked on at one time.
            timeout_s: processor seconds after which a worker is killed and the answer counts as wrong.
        """
        self.reasons: collections.Counter[str] = collections.Counter()
        self._num_workers = num_workers
        self._timeout_s = timeout_s
        self._workers: list[_Worker] = []
        self._verdict_of: dict[Question, Verdict] = {}

    def __enter__(self) -> "Judge":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all workers at once. The judge can be used again; it then starts new ones."""
        while self._workers:
            self._workers.pop().kill()

    def verify(self, questions: Sequence[Question]) -> list[Verdict]:
        """Answers every (reference, prediction); verdicts are remembered.

        Raises:
            RuntimeError: a worker could not start.
        """
        if len(self._verdict_of) > _MAX_REMEMBERED:
            self._verdict_of.clear()
        new = [question for question in dict.fromkeys(questions) if question not in self._verdict_of]
        try:
            self._run_queue(collections.deque(new))
        except BaseException:
            self.close()  # what workers are busy with would be taken for the answer to the next question
            raise
        return [self._verdict_of[question] for question in questions]

    def _run_queue(self, waiting: collections.deque[Question]) -> None:
        while waiting or any(worker.question for worker in self._workers):
            while waiting and (worker := self._idle_worker()):
                worker.ask(waiting.popleft())
            for worker in _next_events([worker for worker in self._workers if worker.question]):
                if reason := worker.outcome():
                    self._record(worker, reason)

    def _idle_worker(self) -> "_Worker | None":
        for worker in self._workers:
            if worker.question is None:
                return worker
        if len(self._workers) < self._num_workers:
            self._workers.append(_Worker(self._timeout_s))
            return self._workers[-1]
        return None

    def _record(self, worker: "_Worker", reason: str) -> None:
        assert worker.question is not None
        self._verdict_of[worker.question] = Verdict(reason == "equal", reason)
        self.reasons[reason] += 1
        worker.question = None
        if reason in ("timeout", "crashed"):
            self._workers.remove(worker)
            worker.kill()


class _Worker:
    """One process, the question it is busy with, and the moment at which patience ends."""

    def __init__(self, timeout_s: float):
        self.question: Question | None = None
        self.connection, theirs = multiprocessing.Pipe()
        self._timeout_s = timeout_s
        self._is_ready = False
        self.deadline = time.monotonic() + _STARTUP_LIMIT_S
        program = str(Path(__file__).with_name("math_verify_worker.py"))
        self._process = subprocess.Popen(
            [sys.executable, "-P", program, str(theirs.fileno()), str(timeout_s)],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt from the keyboard is for the parent
        )
        theirs.close()

    def ask(self, question: Question) -> None:
        self.question = question
        if self._is_ready:
            self.deadline = time.monotonic() + _PATIENCE * self._timeout_s
        with contextlib.suppress(OSError):  # if it has died, `outcome` finds out
            self.connection.send(question)

    def outcome(self) -> str | None:
        """The reason of a verdict, once there is one: given by the worker, or by its death or lateness."""
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
                f"a worker of the judge did not start ({message}); see its message above, and check that"
                f" `{sys.executable} -c 'import math_verify'` works"
            )
        self._is_ready = True
        self.deadline = time.monotonic() + _PATIENCE * self._timeout_s
        return None

    def kill(self) -> None:
        self.connection.close()
        self._process.kill()
        self._process.wait()


def _next_events(busy: list[_Worker]) -> list[_Worker]:
    """Waits until a worker has a message or has run out of time, and returns those."""
    patience = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
    ready = connection.wait([worker.connection for worker in busy], timeout=patience)
    return [worker for worker in busy if worker.connection in ready or time.monotonic() >= worker.deadline]
