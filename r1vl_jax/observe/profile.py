"""A trace of one update, for XProf or TensorBoard, and the share of it in which devices had nothing to do."""

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

# Lines of a trace on which something stands while a device computes: of a TPU, of a GPU, of the threads of a CPU.
_COMPUTING = ("XLA Ops", "Stream", "tf_XLA")


@contextlib.contextmanager
def profiled(workdir: epath.PathLike, *, is_wanted: bool, wait: Callable[[], Any]) -> Iterator[None]:
    """Traces its block into `profile/` of a run, and writes and prints the idle share; of several processes the first.

    Args:
        wait: for what devices still compute; called before and behind the block.
    """
    if is_wanted and (reason := _would_crash()):
        logging.warning("no profile, whose tracer would crash: %s", reason)
        is_wanted = False
    if not (is_wanted and processes.is_main_process()):
        yield
        return
    directory = epath.Path(workdir) / PROFILE
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # functions of Python would fill the trace
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


def _would_crash() -> str | None:
    """Why the tracer of libtpu, which JAX starts wherever libtpu is loaded, would end the process; None if not."""
    jax.default_backend()  # loads what there is
    return libtpu.version_mismatch() if libtpu.is_loaded() else None


def idle_shares(planes: Iterable[Any], seconds: float) -> dict[str, float]:
    """By device, the share of the time in which nothing of a program ran on it.

    Args:
        planes: of `jax.profiler.ProfileData`. The host's counts where there is no other: then it is the device.
        seconds: that the trace took.
    """
    computing = {plane.name: [line for line in plane.lines if line.name.startswith(_COMPUTING)] for plane in planes}
    devices = [name for name, lines in computing.items() if lines and name.startswith("/device:")]
    return {
        name.removeprefix("/device:").removeprefix("/host:"): max(0.0, 1 - _covered_ns(computing[name]) / 1e9 / seconds)
        for name in devices or [name for name, lines in computing.items() if lines]
    }


def _covered_ns(lines: Iterable[Any]) -> float:
    """The time in which there is an event on some of the lines."""
    events = sorted((event.start_ns, event.start_ns + event.duration_ns) for line in lines for event in line.events)
    covered = until = 0.0
    for start, end in events:
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered
