"""Sides in turn, each in a process of its own; repeats during which other programs computed are made again."""

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

DISTURBED = 0.05  # of all processors, computing for others
_LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
_WAIT_S = 2.0  # after a repeat that was disturbed


@dataclass
class Measured:
    """What a side told.

    Attributes:
        ready: of the time before the first repeat: what was checked, seconds, seconds of compilation.
        repeats: answers that count.
        disturbance: for each of them the share of all processors that worked for others; None where it is unknown.
        num_discarded: repeats that were disturbed, and made again.
        memory_gib: peaks, by name.
    """

    ready: dict[str, Any]
    repeats: list[dict[str, Any]] = field(default_factory=list)
    disturbance: list[float | None] = field(default_factory=list)
    num_discarded: int = 0
    memory_gib: dict[str, float] = field(default_factory=dict)

    @property
    def num_disturbed(self) -> int:
        """Repeats that count although they were disturbed: there was no end of it."""
        return sum(share is not None and share > DISTURBED for share in self.disturbance)


def measure(work: Work, sides: Sequence[str], *, repeats: int, max_discarded: int) -> dict[str, Measured]:
    """Ours, another, ours again, until each side has its repeats.

    Args:
        max_discarded: repeats that a side may make again; those after that count, disturbed or not.

    Raises:
        RuntimeError: a side's process ended; with the end of what it wrote.
    """
    processes = {name: _Process(name, work) for name in sides}
    try:
        measured = {}
        for name in sides:
            measured[name] = Measured(processes[name].read())
            _tell(f"{name}: ready after {measured[name].ready['ready_s']:.1f} s")
        for number in range(1, repeats + 1):
            for name in sides:
                processes[name].repeat()  # does not count: what a machine takes from those that wait is fetched again
                _repeat(processes[name], measured[name], max_discarded)
                seconds, again = max(measured[name].repeats[-1]["seconds"].values()), measured[name].num_discarded
                _tell(f"{name}: repeat {number} of {repeats}, {seconds:.3g} s; {again} made again so far")
        for name in sides:
            measured[name].memory_gib = processes[name].end()["memory_gib"]
        return measured
    finally:
        for process in processes.values():
            process.kill()


def _tell(line: str) -> None:
    """How far it is, while it goes on."""
    print(line, file=sys.stderr, flush=True)


def _repeat(process: "_Process", measured: Measured, max_discarded: int) -> None:
    answer, disturbance = process.repeat()
    while disturbance is not None and disturbance > DISTURBED and measured.num_discarded < max_discarded:
        measured.num_discarded += 1
        time.sleep(_WAIT_S)
        answer, disturbance = process.repeat()
    measured.repeats.append(answer)
    measured.disturbance.append(disturbance)


class _Process:
    """A side's process; it starts to load, compile and warm up when it is first read from."""

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
        """The answer, and the share of all processors that worked for others meanwhile; None where it is unknown."""
        before = self._processor_s()
        start = time.perf_counter()
        self._send("repeat\n")
        answer, seconds = self.read(), time.perf_counter() - start
        after = self._processor_s()
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

    def _processor_s(self) -> tuple[float, float] | None:
        """Processor seconds of the whole machine, and of the side, so far; None where there is no /proc."""
        assert self._child is not None
        try:
            total = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
            own = Path(f"/proc/{self._child.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        tick = os.sysconf("SC_CLK_TCK")
        user, nice, system, _, _, irq, softirq, steal = map(int, total[:8])
        return (user + nice + system + irq + softirq + steal) / tick, (int(own[11]) + int(own[12])) / tick
