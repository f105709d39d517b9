"""What compilers write to the screen past Python, kept for who asks."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

# A shell that waits for a line, or for the end of the process that would send it.
_SHOW_IF_KILLED = """
read -r _ || { echo "the compiler ended the program; $0 has all that it said, at last this:"; tail -n 20 "$0"; } >&2
"""


@contextmanager
def captured_stderr(lines: list[str]) -> Iterator[None]:
    """Puts all that is written to standard error inside into a list, line by line, instead of on the screen.

    A compiler may abort the whole process; then the last lines come to the screen.
    """
    sys.stderr.flush()
    with tempfile.NamedTemporaryFile(prefix="messages-") as file:
        screen = os.dup(2)
        command = ["sh", "-c", _SHOW_IF_KILLED, file.name]
        witness = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=screen)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(screen, 2)
            os.close(screen)
            witness.communicate(b"\n")
            file.seek(0)
            lines += file.read().decode("utf-8", "replace").splitlines()
