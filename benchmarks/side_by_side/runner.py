"""Runs the sides in turns, each in its own process; repeats disturbed by other processes are repeated."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.side_by_side.work import Work

MAX_OTHER_CPU_SHARE = 0.05  # of all cores; a repeat with more is noisy
_LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
_WAIT_S = 2.0  # after a noisy repeat


@dataclass
class Measurement:
    """The measurements of a side.

    Attributes:
        ready: its first answer: results of the check, startup seconds, compilation seconds.
        repeats: answers that count.
        other_cpu_share: for each of them, the share of all cores that other processes used; None if unknown.
        num_discarded: noisy repeats, which were repeated.
        memory_gib: name -> peak.
    """

    ready: dict[str, Any]
    repeats: list[dict[str, Any]] = field(default_factory=list)
    other_cpu_share: list[float | None] = field(default_factory=list)
    num_discarded: int = 0
    memory_gib: dict[str, float] = field(default_factory=dict)

    @property
    def num_noisy(self) -> int:
        """Repeats that count although they were noisy: too many were discarded before."""
        return sum(share is not None and share > MAX_OTHER_CPU_SHARE for share in self.other_cpu_share)


def measure(work: Work, sides: Sequence[str], *, repeats: int, max_discarded: int) -> dict[str, Measurement]:
    """Lets each side do one repeat in turn, until all are done.

    Args:
        max_discarded: noisy repeats that a side may discard; those after that count.

    Raises:
        RuntimeError: a side's process ended; with the end of its log.
    """
    processes = {name: _SideProcess(name, work) for name in sides}
    try:
        measured = {}
        for name in sides:
            measured[name] = Measurement(processes[name].read())
            _log(f"{name}: ready after {measured[name].ready['ready_s']:.1f} s")
        for number in range(1, repeats + 1):
            for name in sides:
                processes[name].repeat()  # does not count: warms the caches, which the other sides have used since
                _repeat(processes[name], measured[name], max_discarded)
                seconds, discarded = max(measured[name].repeats[-1]["seconds"].values()), measured[name].num_discarded
                _log(f"{name}: repeat {number} of {repeats}, {seconds:.3g} s; {discarded} discarded so far")
        for name in sides:
            measured[name].memory_gib = processes[name].end()["memory_gib"]
        return measured
    finally:
        for process in processes.values():
            process.kill()


def _log(line: str) -> None:
    """Prints progress to standard error."""
    print(line, file=sys.stderr, flush=True)


def _repeat(process: "_SideProcess", measured: Measurement, max_discarded: int) -> None:
    answer, disturbance = process.repeat()
    while disturbance is not None and disturbance > MAX_OTHER_CPU_SHARE and measured.num_discarded < max_discarded:
        measured.num_discarded += 1
        time.sleep(_WAIT_S)
        answer, disturbance = process.repeat()
    measured.repeats.append(answer)
    measured.other_cpu_share.append(disturbance)


class _SideProcess:
    """The process of a side; it is started by the first `read`."""

    def __init__(self, name: str, work: Work):
        self._name, self._log = name, work.directory / f"{name}.log"
        self._command = [sys.executable, "-m", "benchmarks.side_by_side.side", name, str(work.directory)]
        self.environment = os.environ | (_LARGE_PAGES if work.large_pages in (name, "all") else {})
        if name == "ours":
            self.environment |= {"JAX_NUM_CPU_DEVICES": str(work.devices)}
        self._child: subprocess.Popen | None = None

    def read(self) -> dict[str, Any]:
        if self._child is None:
            with self._log.open("w") as log:
                self._child = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env=self.environment,
                )
        line = self._child.stdout.readline()  # pyright: ignore[reportOptionalMemberAccess]
        if not line:
            end = self._log.read_text()[-3_000:]
            raise RuntimeError(f"side {self._name} ended with status {self._child.wait()}; the end of its log:\n{end}")
        return json.loads(line)

    def repeat(self) -> tuple[dict[str, Any], float | None]:
        """The answer, and the share of all cores that other processes used meanwhile; None if unknown."""
        before = self._cpu_seconds()
        start = time.perf_counter()
        self._send("repeat\n")
        answer, seconds = self.read(), time.perf_counter() - start
        after = self._cpu_seconds()
        if before is None or after is None:
            return answer, None
        others_s = (after[0] - before[0]) - (after[1] - before[1])
        return answer, max(others_s, 0.0) / seconds / (os.cpu_count() or 1)

    def end(self) -> dict[str, Any]:
        self._send("end\n")
        return self.read()

    def kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def _send(self, text: str) -> None:
        assert self._child is not None
        assert self._child.stdin is not None
        self._child.stdin.write(text)
        self._child.stdin.flush()

    def _cpu_seconds(self) -> tuple[float, float] | None:
        """CPU seconds of the whole machine and of the side so far; None without /proc."""
        assert self._child is not None
        try:
            total = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
            side = Path(f"/proc/{self._child.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        tick = os.sysconf("SC_CLK_TCK")
        user, nice, system, _, _, irq, softirq, steal = map(int, total[:8])
        return (user + nice + system + irq + softirq + steal) / tick, (int(side[11]) + int(side[12])) / tick
