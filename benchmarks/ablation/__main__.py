"""Ablation of rewards and credit assignment on the embedded task.

    python -m benchmarks.ablation --out=runs/ablation [--arms "answer only" ...] [--seeds 0 1]

For every seed the recipe runs once, unchanged: its StepGRPO has both step rewards. The other arms start from the
weights at the end of its warm-up and make as many updates with one thing changed (`benchmarks/ablation/arms.py`, with
what was expected of each). A finished arm is added to --results at once, and an interrupted one is resumed, so that the
whole, hours on two cores, can be done in pieces. Prints the table of all results so far, and draws the curves.
Needs matplotlib: `pip install -e ".[notebook]"`.
"""

import argparse
import sys
from pathlib import Path

import matplotlib

from benchmarks.ablation import plots, results
from benchmarks.ablation.arms import ARMS
from benchmarks.ablation.runs import Runs
from r1vl_jax.observe.markdown import provenance


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="directory for all runs")
    parser.add_argument("--config", default="configs/tiny.py")
    parser.add_argument("--seeds", type=int, nargs="*", default=None, help="default: of each arm as many as it needs")
    parser.add_argument(
        "--arms", nargs="*", default=list(ARMS), choices=list(ARMS), metavar="ARM", help=", ".join(ARMS)
    )
    parser.add_argument("--results", type=Path, help="JSON, by default OUT/ablation.json; so is the picture")
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE", help="settings of all runs")
    arguments = parser.parse_args()
    if arguments.out == Path():
        parser.error("--out: expected a directory for the runs, got the current one")
    arguments.results = arguments.results or arguments.out / "ablation.json"
    try:
        results.check_settings(results.read(arguments.results), arguments.set)
    except ValueError as e:
        parser.error(f"{arguments.results}: {e}")
    for seed, name in _wanted(arguments.arms, arguments.seeds):
        if str(seed) in results.read(arguments.results).get(name, {}):
            continue
        runs = Runs(arguments.out, arguments.config, seed, tuple(arguments.set))
        result = results.of_run(runs.run(name), name, arguments.set)
        results.add(arguments.results, name, seed, result)
    all_results = results.read(arguments.results)
    matplotlib.use("Agg")  # draws without a display
    plots.plot(all_results, arguments.results.with_suffix(".png"))
    print(provenance(["python", "-m", "benchmarks.ablation", *sys.argv[1:]]), "", results.table(all_results), sep="\n")


def _wanted(names: list[str], seeds: list[int] | None) -> list[tuple[int, str]]:
    """Seed by seed, so that comparisons within a seed are there early."""
    if seeds is not None:
        return [(seed, name) for seed in seeds for name in names]
    most = max(ARMS[name].num_seeds for name in names)
    return [(seed, name) for seed in range(most) for name in names if seed < ARMS[name].num_seeds]


if __name__ == "__main__":
    main()
