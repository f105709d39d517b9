"""The program of a math-verify worker: receives (gold answer, prediction), sends the reason of its verdict.

    python -P math_verify_worker.py FILE_DESCRIPTOR TIMEOUT_SECONDS

It runs as a script, so that it imports math-verify only: nothing of this package, and no accelerator's library.
"""

import logging
import os
import signal
import sys
import warnings
from multiprocessing.connection import Connection
from typing import Any

MAX_MEMORY_BYTES = 2 << 30  # a tower of powers would exhaust any memory
_DIGITS = 50  # to which numbers are computed that math-verify finds equal


def main(descriptor: int, timeout_s: float) -> None:
    """Serves until the other end closes. The process ends itself if a comparison exceeds its processor time."""
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    _limit_memory()
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the default action ends the process even inside C code
    connection = Connection(descriptor)
    connection.send("ready")
    while (pair := _receive(connection)) is not None:
        signal.setitimer(signal.ITIMER_PROF, timeout_s)
        gold, prediction = (parse(_delimited(text), parsing_timeout=None) for text in pair)  # type: ignore[arg-type]
        if not gold or not prediction:
            verdict = "unparsable"
        elif verify(gold, prediction, timeout_seconds=None) and not _differ_as_numbers(gold[0], prediction[0]):
            verdict = "equal"
        else:
            verdict = "different"
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send(verdict)


def _differ_as_numbers(gold: Any, prediction: Any) -> bool:
    """Whether two expressions without variables differ in their first 40 digits; math-verify compares six decimals."""
    import sympy

    if not all(isinstance(each, sympy.Expr) and each.is_number for each in (gold, prediction)):
        return False
    difference = sympy.N(sympy.Abs(gold - prediction), _DIGITS)
    size = sympy.N(sympy.Max(sympy.Abs(gold), sympy.Abs(prediction)), _DIGITS)
    return bool(difference > size * sympy.Float(10) ** (10 - _DIGITS)) if difference.is_comparable else False


def _receive(connection: Connection) -> tuple[str, str] | None:
    try:
        return connection.recv()
    except EOFError:
        return None


def _delimited(text: str) -> str:
    """Adds $ around a single line of LaTeX without delimiters: math-verify parses delimited LaTeX only."""
    text = text.replace("\\$", "")  # a currency, not a delimiter
    has_delimiter = any(mark in text for mark in ("$", "\\(", "\\[", "\\boxed", "\\begin"))
    return text if has_delimiter or "\n" in text or "\\" not in text else f"${text}$"


def _limit_memory() -> None:
    if sys.platform == "linux":  # macOS does not support the limit
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
    os._exit(0)  # skips the slow destruction of sympy's caches
