"""What compilers write to the screen past Python, kept for who asks."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def messages_kept(lines: list[str]) -> Iterator[None]:
    """Puts all that is written to standard error inside into a list, line by line, instead of on the screen."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        screen = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(screen, 2)
            os.close(screen)
            file.seek(0)
            lines += file.read().decode("utf-8", "replace").splitlines()
