"""Ablation of rewards and credit assignment on the embedded task.

    python -m benchmarks.ablation --out=runs/ablation [--seeds 0 1 2] [--config=configs/tiny.py]

For every seed the recipe runs once, unchanged. Then the checkpoint of its warm-up is exported, and StepGRPO starts from
it again with one setting changed, for as many updates; as a control, supervised training continues from it for the wall
time of StepGRPO. Prints a Markdown table of greedy accuracy on the held-out problems, and writes it with the validation
curves as `ablation.json`. Started again, it continues where it was interrupted.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from r1vl_jax.checkpoint.hf.export import export_run
from r1vl_jax.observe.markdown import provenance

RECIPE = "recipe"
WARM_UP = "warm-up"
LONGER_WARM_UP = "longer warm-up"

# arm -> changed settings; the recipe has both step rewards and trajectory-level credit
ARMS = {
    "answer only": ("reward.alpha=0.0", "reward.reward_weights=(1.0, 0.0)"),
    "StepRAR": ("reward.reward_weights=(1.0, 0.0)",),
    "StepRVR": ("reward.alpha=0.0",),
    "both, EGSW": ("loss.egsw_level=trajectory",),
    "both, step-level credit": ("loss.credit=step",),
}
_LONGER_LEARNING_RATE = 2e-4  # the warm-up's schedule ends at 0; this is the recipe's for StepGRPO


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for all runs and the table")
    parser.add_argument("--config", default="configs/tiny.py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=[*ARMS, LONGER_WARM_UP], choices=[*ARMS, LONGER_WARM_UP])
    arguments = parser.parse_args()
    if arguments.out == Path():
        parser.error("--out: expected a directory for the runs, got the current one")
    for seed in arguments.seeds:
        directory = arguments.out / f"seed{seed}"
        _run(arguments.config, directory / RECIPE, seed)
        for arm in arguments.arms:
            _run(arguments.config, directory / arm.replace(" ", "_"), seed, *_settings(directory, arm))
    results = {seed: _results(arguments.out / f"seed{seed}", arguments.arms) for seed in arguments.seeds}
    (arguments.out / "ablation.json").write_text(json.dumps(results, indent=2))
    print(provenance(["python", "-m", "benchmarks.ablation", *sys.argv[1:]]), "", *_table(results), sep="\n")


def _run(config: str, workdir: Path, seed: int, *settings: str) -> None:
    """Trains, unless the run is finished."""
    if (workdir / "report.html").exists():
        return
    print(f"== {workdir}", flush=True)
    options = [f"--config.{setting}" for setting in (f"workdir={workdir}", f"seed={seed}", *settings)]
    subprocess.run([sys.executable, "-m", "r1vl_jax.train", f"--config={config}", *options], check=True)


def _settings(directory: Path, arm: str) -> Iterator[str]:
    """The changed settings of an arm, which starts from the recipe's warm-up and uses the recipe's data."""
    weights = directory / WARM_UP
    if not weights.exists():
        export_run(directory / RECIPE, weights, stage="warmup", dtype="float32")
    yield from (f"model.path={weights}", f"data.directory={directory / RECIPE / 'data'}")
    if arm != LONGER_WARM_UP:
        yield from ("train.stages=('step_grpo',)", *ARMS[arm])
        return
    yield from ("train.stages=('warmup',)", f"warmup.max_steps={_num_updates_of_equal_time(directory / RECIPE)}")
    yield f"warmup.optim.learning_rate={_LONGER_LEARNING_RATE}"


def _num_updates_of_equal_time(recipe: Path) -> int:
    """Supervised updates that take as long as the recipe's StepGRPO did, evaluations excluded."""
    lines = [json.loads(line) for line in (recipe / "timings.jsonl").read_text().splitlines()]
    seconds = {
        stage: [line["step_time"] for line in lines if line["stage"] == stage and "step_time" in line]
        for stage in ("warmup", "step_grpo")
    }
    return round(sum(seconds["step_grpo"]) / float(np.median(seconds["warmup"])))


def _results(directory: Path, arms: list[str]) -> dict[str, dict]:
    """Accuracy on the test split at the end of every arm, and the curve on the validation split."""
    accuracy = _summary(directory / RECIPE)
    return {
        "warm-up": {"accuracy": accuracy["warmup"]},
        "both": {"accuracy": accuracy["step_grpo"], "curve": _curve(directory / RECIPE, "step_grpo")},
    } | {
        arm: _result(directory / arm.replace(" ", "_"), "warmup" if arm == LONGER_WARM_UP else "step_grpo")
        for arm in arms
    }


def _result(workdir: Path, stage: str) -> dict:
    return {"accuracy": _summary(workdir)[stage], "curve": _curve(workdir, stage)}


def _summary(workdir: Path) -> dict[str, float]:
    return json.loads((workdir / "summary.json").read_text())["accuracy"]


def _curve(workdir: Path, stage: str) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [
        (line["step"], line["eval/accuracy"]) for line in lines if line["stage"] == stage and "eval/accuracy" in line
    ]


def _table(results: dict[int, dict[str, dict]]) -> Iterator[str]:
    """Markdown: a row per arm, a column per seed, then mean and standard deviation."""
    yield f"| | {' | '.join(f'seed {seed}' for seed in results)} | mean | std |"
    yield f"|---|{'---|' * (len(results) + 2)}"
    for arm in next(iter(results.values())):
        values = [arms[arm]["accuracy"] for arms in results.values()]
        cells = [f"{value:.3f}" for value in [*values, np.mean(values), np.std(values, ddof=min(1, len(values) - 1))]]
        yield f"| {arm} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
