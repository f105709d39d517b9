"""The process of one side: `python -m benchmarks.side_by_side.side NAME DIRECTORY`, started by the benchmark."""

import importlib
import sys
from pathlib import Path

from benchmarks.side_by_side.work import Work
from benchmarks.side_by_side.worker import Channel, peak_memory_gib

# name -> (module, function of a Work and a Channel); only the side's own module is imported
SIDES = {
    "ours": ("benchmarks.side_by_side.ours", "serve"),
    "transformers": ("benchmarks.side_by_side.with_torch", "serve_generation"),
    "plain": ("benchmarks.side_by_side.with_torch", "serve_steps"),
    "trl": ("benchmarks.side_by_side.with_trl", "serve"),
}


def main() -> None:
    name, directory = sys.argv[1:]
    channel = Channel()
    if name == "ours":  # libraries that it uses import torch if it is installed
        sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
    module, function = SIDES[name]
    serve = getattr(importlib.import_module(module), function)
    channel.libraries_gib = peak_memory_gib()
    serve(Work.read(Path(directory)), channel)


if __name__ == "__main__":
    main()
