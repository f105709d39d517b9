"""How the other processes of a run end when one is killed, hangs or raises: with JAX alone, and with our propagation.

    python -m benchmarks.process_failures [--heartbeat_timeout=10]

Starts three processes with one CPU device each: one fails, of the others one waits in a collective and one is busy on
the host. Prints a table in Markdown, with `runtime.failure_propagation` and without it ("JAX alone"): seconds from the
failure until the last of the others ended, their exit statuses as a shell shows them, and what they printed. Takes six
minutes: with JAX alone they wait 300 s for the one that raised.
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_NUM_PROCESSES = 3
_FAILURES = {
    "is killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "hangs": "os.kill(os.getpid(), signal.SIGSTOP)",
    "raises": "raise ValueError('bad record')",
}
_SCRIPT = """
import contextlib, os, signal, sys, time
from pathlib import Path
from r1vl_jax.runtime import processes
process, heartbeat_timeout, failing, propagates = map(int, sys.argv[1:5])
processes._HEARTBEAT_TIMEOUT_S = heartbeat_timeout
if not propagates:
    processes.propagate_failures = lambda **_: contextlib.nullcontext()
with processes.initialize_distributed():
    time.sleep(2)
    if process == failing:
        Path(sys.argv[5]).write_text(str(time.time()))
        {failure}
    if process == 2:
        time.sleep(600)
    processes.all_gather_objects(None)
"""
_MESSAGE = re.compile(r"absl::Status: (?P<jax>.+?)\n(?!\d+\n)|(?P<ours>process \d of \d failed.+)", re.DOTALL)


def measure(failing: int, what: str, propagates: bool, heartbeat_timeout: int) -> str:
    """One row of the table."""
    with socket.socket() as unused:
        unused.bind(("localhost", 0))
        address = f"localhost:{unused.getsockname()[1]}"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(_NUM_PROCESSES),
    }
    with tempfile.TemporaryDirectory() as directory:
        clock, outputs = Path(directory, "clock"), [Path(directory, str(each)) for each in range(_NUM_PROCESSES)]
        started = []
        for process, output in enumerate(outputs):
            arguments = [process, heartbeat_timeout, failing, int(propagates), clock]
            with output.open("w") as file:
                started.append(
                    subprocess.Popen(
                        [sys.executable, "-c", _SCRIPT.format(failure=_FAILURES[what]), *map(str, arguments)],
                        env=environment | {"JAX_PROCESS_ID": str(process)},
                        stdout=file,
                        stderr=file,
                    )
                )
        others = [process for number, process in enumerate(started) if number != failing]
        statuses = [_shell_status(process.wait()) for process in others]
        seconds = time.time() - float(clock.read_text())
        started[failing].kill()
        started[failing].wait()
        text = outputs[2].read_text()  # of the process that is busy on the host
    match = _MESSAGE.search(text)
    message = " ".join((match["jax"] or match["ours"].splitlines()[0]).split()) if match else "none"
    message = textwrap.shorten(message, 92, placeholder=" ...")
    code = "propagation" if propagates else "JAX alone"
    return f"| process {failing} {what} | {code} | {seconds:.1f} | {', '.join(sorted(set(statuses)))} | {message} |"


def _shell_status(status: int) -> str:
    return str(status) if status >= 0 else f"{128 - status} ({signal.Signals(-status).name})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.process_failures", description=__doc__.splitlines()[0])
    parser.add_argument("--heartbeat_timeout", type=int, default=10, help="seconds without heartbeats until a loss")
    timeout = parser.parse_args().heartbeat_timeout
    cases = [(failing, what, ours) for what in _FAILURES for failing in (1, 0) for ours in (False, True)]
    print("| failure | with | seconds | exit status | message |\n|---|---|---|---|---|")
    with ThreadPoolExecutor(max_workers=3) as pool:
        for row in pool.map(lambda case: measure(*case, heartbeat_timeout=timeout), cases):
            print(row, flush=True)


if __name__ == "__main__":
    main()
