"""A profiler trace of one update, for XProf or TensorBoard, and the share of time in which devices were idle."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
from etils import epath
from rich.console import Console

from r1vl_jax.observe.files import write_json
from r1vl_jax.runtime import libtpu, processes

PROFILE = "profile"

# Prefixes of trace lines that have an event while a device computes: on TPU, on GPU, on the threads of a CPU.
_COMPUTE_LINES = ("XLA Ops", "Stream", "tf_XLA")


@contextlib.contextmanager
def profiled(workdir: epath.PathLike, *, enabled: bool, wait: Callable[[], Any]) -> Iterator[None]:
    """Traces its block into `profile/` of a run, and writes and prints the idle share; only in the main process.

    Args:
        wait: blocks until the devices are done; called before and after the block.
    """
    if enabled and (reason := _tracer_would_crash()):
        logging.warning("no profile: the tracer would crash: %s", reason)
        enabled = False
    if not (enabled and processes.is_main_process()):
        yield
        return
    directory = epath.Path(workdir) / PROFILE
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # calls of Python functions would fill the trace
    wait()
    with jax.profiler.trace(str(directory), profiler_options=options):
        start = time.perf_counter()
        yield
        wait()
        seconds = time.perf_counter() - start
    newest = max(directory.glob("plugins/profile/*/*.xplane.pb"), key=lambda path: path.stat().mtime)
    idle = idle_shares(jax.profiler.ProfileData.from_file(str(newest)).planes, seconds)
    write_json(directory / "idle.json", {"seconds": seconds, "idle": idle})
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in idle.items())
    Console().print(f"profile: {seconds:.2f} s, idle: {shares}; the trace is in {directory}", soft_wrap=True)


def _tracer_would_crash() -> str | None:
    """Why libtpu's tracer, which JAX starts where libtpu is loaded, would crash the process; None if it would not."""
    jax.default_backend()  # loads libtpu if it is installed
    return libtpu.version_mismatch() if libtpu.is_loaded() else None


def idle_shares(planes: Iterable[Any], seconds: float) -> dict[str, float]:
    """Device -> share of the time in which no operation ran on it.

    Args:
        planes: of `jax.profiler.ProfileData`. The host's plane counts only if there is no other: the CPU is the device.
        seconds: duration of the trace.
    """
    compute_lines = {
        plane.name: [line for line in plane.lines if line.name.startswith(_COMPUTE_LINES)] for plane in planes
    }
    devices = [name for name, lines in compute_lines.items() if lines and name.startswith("/device:")]
    return {
        name.removeprefix("/device:").removeprefix("/host:"): max(
            0.0, 1 - _busy_ns(compute_lines[name]) / 1e9 / seconds
        )
        for name in devices or [name for name, lines in compute_lines.items() if lines]
    }


def _busy_ns(lines: Iterable[Any]) -> float:
    """Time covered by the events of any of the lines."""
    events = sorted((event.start_ns, event.start_ns + event.duration_ns) for line in lines for event in line.events)
    covered = until = 0.0
    for start, end in events:
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered
