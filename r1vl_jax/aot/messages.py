"""Captures what the compiler, which is C++, writes to standard error."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

# A child process: it ends silently when it reads a line, and shows the log if the pipe closes before that, because the
# parent was killed or aborted.
_SHOW_IF_KILLED = """
read -r _ || { echo "the compiler aborted the process; its log is $0, the last lines are:"; tail -n 20 "$0"; } >&2
"""


@contextmanager
def captured_stderr(lines: list[str]) -> Iterator[None]:
    """Appends the lines written to standard error to `lines`, instead of showing them.

    libtpu may abort the whole process; then the last lines are shown.
    """
    sys.stderr.flush()
    with tempfile.NamedTemporaryFile(prefix="compiler-log-") as file:
        terminal = os.dup(2)
        command = ["sh", "-c", _SHOW_IF_KILLED, file.name]
        watcher = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=terminal)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            watcher.communicate(b"\n")
            file.seek(0)
            lines += file.read().decode("utf-8", "replace").splitlines()
