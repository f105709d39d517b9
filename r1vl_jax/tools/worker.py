"""The program of a tool's process: receives calls, sends what the function returned or why there is nothing.

    python -P worker.py FILE_DESCRIPTOR

It runs as a script, so that it imports the user's module and nothing of this package.
"""

import functools
import importlib
import os
import sys
from multiprocessing.connection import Connection
from typing import Any


def main(descriptor: int) -> None:
    """Serves until the other end closes."""
    connection = Connection(descriptor)
    sys.path[:], names = connection.recv()
    functions = {name: _import(name) for name in names}
    connection.send("ready")
    while True:
        try:
            name, arguments = connection.recv()
        except EOFError:
            return
        try:
            connection.send((functions[name](**arguments), ""))
        except Exception as error:  # of the user's code, or what cannot be sent
            connection.send((None, f"{type(error).__name__}: {error}"))


def _import(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))


if __name__ == "__main__":
    main(int(sys.argv[1]))
    os._exit(0)  # whatever threads the user's code has started
