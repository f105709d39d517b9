"""A step of StepGRPO side by side with transformers, plain torch and TRL on the same checkpoint and prompts.

    python -m benchmarks.side_by_side --size=small --repeats=5 [--sides=ours,transformers,plain,trl] [--json=FILE]
        [--markdown=FILE]

ours            the step of a training run: rollout, rewards, advantages, reference log-probs, `step_grpo_step`; then
                each part is timed once more by itself. Activations are rematerialized, as by default (`--remat`). torch
                is hidden from it, as in an installation without torch. glibc allocates huge pages, as under
                launch/local.sh (`--large_pages=all`: on all sides). `--devices=N` shards the prompts over N devices of
                a CPU
transformers    `Qwen2VLForConditionalGeneration.generate` with its KV cache; generation only
plain           a step written in torch: generate, reference log-probs, GRPO loss with the k3 estimator, AdamW
trl             a step of TRL's GRPOTrainer (`pip install trl`); without `--recompute`, unlike TRL's default, it runs
                without gradient checkpointing, as `plain` does

Every completion has exactly `--new_tokens` tokens; beta is 0.04 with a frozen reference; all parameters are trained;
weights are random. Sides run in turns, each in its own process; in each turn the second repeat counts. A repeat is
`--steps` steps in a row, and its seconds are the mean of a step (for parts timed within a step, as torch's, those of
the last). A repeat during which other processes used more than 5 % of the CPU is discarded and repeated, up to
`--max_discarded` times per side. Prints medians, the machine's roofline, and the largest difference between each side's
log-probabilities of the same tokens and ours.
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

from benchmarks.side_by_side.inputs import SIZES, write_inputs
from benchmarks.side_by_side.results import print_results, results, to_markdown
from benchmarks.side_by_side.roofline import roofline
from benchmarks.side_by_side.runner import measure
from benchmarks.side_by_side.side import SIDES
from benchmarks.side_by_side.work import Work
from r1vl_jax.runtime import libtpu

_WIDTH = 120  # columns, if the output is no terminal


def main() -> None:
    arguments = _arguments(sys.argv[1:])
    libtpu.skip_without_tpu()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the sides share the accelerator
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the checkpoint is removed, too
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
        write_inputs(work)
        bounds = roofline(work)
        measured = measure(work, arguments.sides, repeats=arguments.repeats, max_discarded=arguments.max_discarded)
        result = results(work, measured, bounds, command=["python", "-m", "benchmarks.side_by_side", *sys.argv[1:]])
    console = Console()
    print_results(result, console if console.is_terminal else Console(width=_WIDTH))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text(to_markdown(result))


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.prompts % arguments.devices:
        parser.error(f"--devices={arguments.devices}: expected a divisor of the {arguments.prompts} prompts")
    if arguments.directory:
        try:
            arguments.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"--directory={arguments.directory}: cannot be created: {error}")
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.side_by_side", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="small", choices=SIZES)
    parser.add_argument("--sides", type=_sides, default=["ours", "transformers", "plain"], help="comma-separated")
    parser.add_argument("--repeats", type=_at_least(1), default=5)
    parser.add_argument("--max_discarded", type=_at_least(0), default=10, help="noisy repeats that a side may discard")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--prompts", type=_at_least(1), default=2)
    parser.add_argument("--generations", type=_at_least(2), default=4, help="completions per prompt")
    parser.add_argument("--new_tokens", type=_at_least(1), default=128)
    parser.add_argument("--steps", type=_at_least(1), default=1, help="steps per repeat")
    parser.add_argument("--devices", type=_at_least(1), default=1, help="CPU devices, for ours")
    parser.add_argument("--remat", default="block", choices=["none", "dots", "block"], help="for ours")
    parser.add_argument("--recompute", action="store_true", help="gradient checkpointing for the torch sides")
    parser.add_argument("--large_pages", default="ours", choices=["ours", "all", "none"], help="huge pages of glibc")
    parser.add_argument("--directory", type=Path, help="keeps the checkpoint and logs, and reuses the checkpoint")
    parser.add_argument("--json", type=_output_file, help="file for all results")
    parser.add_argument("--markdown", type=_output_file, help="file for the table as Markdown")
    return parser


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected an integer of at least {least}, got {text}")
        return int(text)

    return number


def _output_file(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"expected a file in an existing directory, got {text}")
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
