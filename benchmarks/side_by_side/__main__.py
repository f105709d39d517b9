"""A step of StepGRPO beside its peers, on the same checkpoint, prompts, lengths and precision.

    python -m benchmarks.side_by_side --size=small --repeats=5 [--sides=ours,transformers,plain,trl] [--json=FILE]

ours            what a training run does in a step: `Generator.generate` samples, scores by the reference, rewards and
                compares, `step_grpo_step` updates; then its parts are timed once more, one by one; layers are computed
                again in the backward pass, as by default (`--remat`); torch is hidden from it, as from a plain
                installation; memory comes in large pages, as launch/local.sh starts a run (`--large_pages=all`: on all
                sides); `--devices=N` divides the prompts over N devices of a CPU
transformers    `Qwen2VLForConditionalGeneration.generate`, with its cache; generation alone
plain           a step written by hand in torch: generate, reference, loss of GRPO with k3, AdamW
trl             a step of TRL's GRPOTrainer (`pip install trl`); without `--recompute`, unlike its default, it keeps
                what the backward pass needs, as `plain` does

Every completion has exactly `--new_tokens` tokens; beta is 0.04 with a frozen reference; all parameters are trained;
weights are random. Sides take turns, each in a process of its own, and of a turn the second repeat counts. A repeat has
`--steps` steps, one after another, and what lies between them counts; the seconds are those of one (of parts that are
timed within a step, as torch's are, those of the last). A repeat during which others used more than 5 % of the
processors is made again, up to `--max_discarded` times a side. Prints medians, what the machine allows at best, and how
far each peer's log-probabilities of the same tokens are from ours.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from benchmarks.side_by_side.inputs import SIZES, make
from benchmarks.side_by_side.results import results, show
from benchmarks.side_by_side.roofline import roofline
from benchmarks.side_by_side.runner import measure
from benchmarks.side_by_side.side import SIDES
from benchmarks.side_by_side.work import Work

_WIDTH = 120  # columns, where nobody looks at a terminal


def main() -> None:
    arguments = _arguments(sys.argv[1:])
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the sides share an accelerator
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the checkpoint is removed then, too
    with tempfile.TemporaryDirectory() as temporary:
        work = Work(
            arguments.directory or Path(temporary),
            size=arguments.size,
            dtype=arguments.dtype,
            num_prompts=arguments.prompts,
            num_generations=arguments.generations,
            new_tokens=arguments.new_tokens,
            steps=arguments.steps,
            devices=arguments.devices,
            remat=arguments.remat,
            recompute=arguments.recompute,
            large_pages=arguments.large_pages,
        )
        make(work)
        limits = roofline(work)
        measured = measure(work, arguments.sides, repeats=arguments.repeats, max_discarded=arguments.max_discarded)
        result = results(work, measured, limits, command=["python", "-m", "benchmarks.side_by_side", *sys.argv[1:]])
    console = Console()
    show(result, console if console.is_terminal else Console(width=_WIDTH))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


def _arguments(words: list[str]) -> argparse.Namespace:
    parser = _parser()
    arguments = parser.parse_args(words)
    if arguments.prompts % arguments.devices:
        parser.error(f"--devices={arguments.devices}: expected a divisor of the {arguments.prompts} prompts")
    if arguments.directory:
        try:
            arguments.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"--directory={arguments.directory}: expected one that is there or can be made, got {error}")
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.side_by_side", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="small", choices=SIZES)
    parser.add_argument("--sides", type=_sides, default=["ours", "transformers", "plain"], help="separated by commas")
    parser.add_argument("--repeats", type=_at_least(1), default=5)
    parser.add_argument("--max_discarded", type=_at_least(0), default=10, help="repeats that a side may make again")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--prompts", type=_at_least(1), default=2)
    parser.add_argument("--generations", type=_at_least(2), default=4, help="completions of each prompt")
    parser.add_argument("--new_tokens", type=_at_least(1), default=128)
    parser.add_argument("--steps", type=_at_least(1), default=1, help="of a repeat")
    parser.add_argument("--devices", type=_at_least(1), default=1, help="of a CPU, for ours")
    parser.add_argument("--remat", default="block", choices=["none", "dots", "block"], help="in ours")
    parser.add_argument("--recompute", action="store_true", help="in the sides of torch, too")
    parser.add_argument("--large_pages", default="ours", choices=["ours", "all", "none"], help="of memory, under glibc")
    parser.add_argument("--directory", type=Path, help="keeps the checkpoint and logs, and finds them again")
    parser.add_argument("--json", type=_new_file, help="receives all figures")
    return parser


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number, at least {least}, got {text}")
        return int(text)

    return number


def _new_file(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"expected a file in a directory that is there, got {text}")
    return path


def _sides(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in SIDES]:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(SIDES)}, got {', '.join(unknown)}")
    if len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"expected each side once, got {text}")
    return names


if __name__ == "__main__":
    main()
