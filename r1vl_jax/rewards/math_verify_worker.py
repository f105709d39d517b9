"""The program of one judge's worker: reads (reference, prediction), answers with a verdict, over one connection.

    python -P math_verify_worker.py FILE_DESCRIPTOR TIMEOUT_SECONDS

It is started as a file, so that it loads math-verify and nothing of this project, and no accelerator's library.
"""

import logging
import os
import signal
import sys
import warnings
from multiprocessing.connection import Connection

MAX_MEMORY_BYTES = 2 << 30  # a tower of powers fills any memory


def main(descriptor: int, timeout_s: float) -> None:
    """Serves until the other end closes. A question that takes more processor time ends this process, parent or not."""
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    _limit_memory()
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process even inside C code
    connection = Connection(descriptor)
    connection.send("ready")
    while (question := _receive(connection)) is not None:
        signal.setitimer(signal.ITIMER_PROF, timeout_s)
        gold, prediction = (parse(_delimited(text), parsing_timeout=None) for text in question)  # type: ignore[arg-type]
        if not gold or not prediction:
            verdict = "unparsable"
        else:
            verdict = "equal" if verify(gold, prediction, timeout_seconds=None) else "different"
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send(verdict)


def _receive(connection: Connection) -> tuple[str, str] | None:
    try:
        return connection.recv()
    except EOFError:
        return None


def _delimited(text: str) -> str:
    """A single line with LaTeX commands but no delimiters is all LaTeX; math-verify reads only what is delimited."""
    text = text.replace("\\$", "")  # money, no delimiter
    has_delimiter = any(mark in text for mark in ("$", "\\(", "\\[", "\\boxed", "\\begin"))
    return text if has_delimiter or "\n" in text or "\\" not in text else f"${text}$"


def _limit_memory() -> None:
    if sys.platform == "linux":  # macOS refuses the limit
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
    os._exit(0)  # nothing to tidy, and sympy's caches take their time
