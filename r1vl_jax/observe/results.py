"""A run's results: `summary.json`, which the seed determines, and `machine.json`: time, memory, device."""

import contextlib
import os
import re
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from etils import epath

from r1vl_jax.observe.files import read_json, write_json

SUMMARY = "summary.json"
MACHINE = "machine.json"


def update_summary(workdir: epath.PathLike, results: Mapping[str, Any]) -> dict[str, Any]:
    """Adds results to `summary.json` and returns all of them.

    Args:
        results: JSON values; a dot in a name nests, so "accuracy.warmup" becomes {"accuracy": {"warmup": ...}}.

    Raises:
        ValueError: a name needs a group where there is a number.
    """
    path = epath.Path(workdir) / SUMMARY
    summary = read_json(path)
    for name, value in results.items():
        *groups, last = name.split(".")
        node = summary
        for group in groups:
            node = node.setdefault(group, {})
            if not isinstance(node, dict):
                raise ValueError(
                    f"{path}: {name!r} needs {group!r} to be a group, but it is {node!r}; rename one of them"
                )
        node[last] = value
    write_json(path, summary)
    return summary


def write_machine(workdir: epath.PathLike, *, seconds: float) -> dict[str, Any]:
    """Updates the resource usage in `machine.json` and returns it; a resumed run adds to the usage before.

    Args:
        seconds: wall time since the last call, or since the start.
    """
    path = epath.Path(workdir) / MACHINE
    before = read_json(path)
    machine = {
        "seconds": before.get("seconds", 0.0) + seconds,
        "peak_memory_gib": max(before.get("peak_memory_gib", 0.0), peak_memory_gib()),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "cpu_count": os.cpu_count(),
    }
    write_json(path, machine)
    return machine


class ResourceUsage:
    """Resource usage of a run, updated in `machine.json` while it goes on, so that a killed run counts too."""

    def __init__(self, workdir: epath.PathLike):
        self._workdir, self._last_time = workdir, time.monotonic()

    def write(self) -> dict[str, Any]:
        """Adds the usage since the last call, or since the start, and returns the total."""
        now = time.monotonic()
        seconds, self._last_time = now - self._last_time, now
        return write_machine(self._workdir, seconds=seconds)


def peak_memory_gib() -> float:
    """Peak resident memory of this process plus that of its living children, each at its own peak, in GiB.

    Read from /proc: getrusage() would charge a child with the memory of its parent at the fork. On other systems than
    Linux, of this process alone.
    """
    if sys.platform != "linux":
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    return sum(_peak_kib(Path(f"/proc/{pid}/status")) for pid in ("self", *_children())) / 2**20


def _children() -> Iterator[str]:
    """Process ids of the living children, whichever thread started them."""
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has just ended
            yield from (task / "children").read_text().split()


def _peak_kib(status: Path) -> int:
    """The line `VmHWM:  123456 kB`; 0 for a process that has just ended."""
    try:
        peak = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(peak.group(1)) if peak else 0
