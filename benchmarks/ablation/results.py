"""Results of the ablation: what is kept of a run, and the tables made of it."""

import datetime
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from rich.table import Table
from scipy.stats import ttest_1samp

from benchmarks.ablation.arms import ANSWER_ONLY, ARMS, BOTH, LONGER_WARM_UP
from r1vl_jax.observe.markdown import markdown_table, processor

BLOCK = 5  # updates that a point of a training curve averages

# Of every update: name in the results -> name in `metrics.jsonl`.
CURVES = {
    "reward": "reward",
    "answer_correct": "rewards/answer_correct/mean",
    "key_step_match": "rewards/key_step_match/mean",
    "frac_reward_zero_std": "frac_reward_zero_std",
    "mean_length": "completions/mean_length",
    "kl": "kl",
}
_HELD_OUT = {"greedy": "eval/accuracy_hard/greedy", "sampled": "eval/accuracy_hard/sampled"}

# arm -> seed, as text -> what `of_run` returns
Results = dict[str, dict[str, dict[str, Any]]]


def of_run(workdir: Path, name: str, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Held-out results before and after, training curves, and how long it took.

    Args:
        workdir: of a finished run.
        name: of the arm.
        settings: of all runs, beside those of the arm; kept with the result.

    Returns:
        `before` and `after`: accuracy on the hard kind, `greedy` and `sampled`, and on `all` kinds; `before` only where
        the run has a warm-up of its own. `kinds`: greedy accuracy by kind, after. `curves`: by name of `CURVES`, means
        of `BLOCK` updates. `held_out`: the validation split, as (update, greedy, sampled). `seconds_an_update` is a
        median.
    """
    summary = json.loads((workdir / "summary.json").read_text())
    stage = "warmup" if name == LONGER_WARM_UP else "step_grpo"
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    timings = [json.loads(line) for line in (workdir / "timings.jsonl").read_text().splitlines()]
    seconds = [line["step_time"] for line in timings if line["stage"] == stage and "step_time" in line]
    result = {
        "after": _accuracy(summary, stage),
        "kinds": summary["accuracy_by_kind"][stage],
        "updates": len(seconds),
        "seconds_an_update": round(float(np.median(seconds)), 2),
        "curves": _curves(lines, stage),
        "held_out": [
            (line["step"], *(_rounded(line[metric]) for metric in _HELD_OUT.values()))
            for line in lines
            if line["stage"] == stage and _HELD_OUT["greedy"] in line
        ],
        "settings": list(settings),
        "git_revision": json.loads((workdir / "manifest.json").read_text())["git_revision"],
        "machine": f"{os.cpu_count()} cores of {processor()}",
        "date": datetime.date.fromtimestamp((workdir / "summary.json").stat().st_mtime).isoformat(),
    }
    if not ARMS[name].base:
        result["before"] = _accuracy(summary, "warmup")
    return result


def _accuracy(summary: Mapping[str, Any], stage: str) -> dict[str, float]:
    values = summary["accuracy_hard"][stage] | {"all": summary["accuracy"][stage]}
    return {name: _rounded(value) for name, value in values.items()}


def _curves(lines: list[Mapping[str, Any]], stage: str) -> dict[str, list[float]]:
    updates = [line for line in lines if line["stage"] == stage and CURVES["reward"] in line]
    blocks = [updates[start : start + BLOCK] for start in range(0, len(updates), BLOCK)]
    return {
        name: [_rounded(np.mean([line[metric] for line in block])) for block in blocks]
        for name, metric in CURVES.items()
        if blocks
    }


def _rounded(value: float) -> float:
    return round(float(value), 4)


def read(path: Path) -> Results:
    """The results so far."""
    return json.loads(path.read_text()) if path.exists() else {}


def check_settings(results: Results, settings: Sequence[str]) -> None:
    """Raises `ValueError` where a result was obtained with other settings of all runs."""
    for name, of_seed in results.items():
        for seed, result in of_seed.items():
            if result["settings"] != list(settings):
                before, now = (" ".join(given) or "(nothing)" for given in (result["settings"], settings))
                raise ValueError(
                    f"arm {name!r}, seed {seed}, was run with --set {before}, now {now}: give those, or another --out"
                )


def add(path: Path, name: str, seed: int, result: Mapping[str, Any]) -> None:
    """Adds a finished arm to the file, in the order of `ARMS`; a crash leaves the file as it was.

    Several programs may add to one file.
    """
    with FileLock(path.with_suffix(".lock")):
        results = read(path)
        results.setdefault(name, {})[str(seed)] = dict(result)
        ordered = {arm: dict(sorted(results[arm].items())) for arm in ARMS if arm in results}
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(ordered, indent=1))
        unfinished.replace(path)


def table(results: Results) -> str:
    """Markdown: each arm's accuracy on the hard kind, and its differences from both and from answer-only."""
    shown = Table("arm", "predicted")
    differences = (f"minus {other}" for other in (BOTH, ANSWER_ONLY))
    for header in ("greedy", "sampled, by seed", "all kinds", *differences, "updates to half right, by seed"):
        shown.add_column(header, justify="right")
    if BOTH in results:
        before = {seed: result | {"after": result["before"], "curves": {}} for seed, result in results[BOTH].items()}
        shown.add_row("warm-up", "", *_cells(before, results))
    for name, of_seed in results.items():
        shown.add_row(name, ARMS[name].prediction, *_cells(of_seed, results))
    return markdown_table(shown)


def _cells(of_seed: Mapping[str, Any], results: Results) -> Iterator[str]:
    after = [result["after"] for result in of_seed.values()]
    yield f"{np.mean([each['greedy'] for each in after]):.2f}"
    yield " ".join(f"{each['sampled']:.2f}" for each in after)
    yield f"{np.mean([each['all'] for each in after]):.2f}"
    for other in (BOTH, ANSWER_ONLY):
        yield difference(of_seed, results.get(other, {}))
    yield " ".join(map(_updates_to_half, of_seed.values()))


def _updates_to_half(result: Mapping[str, Any]) -> str:
    """The first update behind which half of the samples of a block are right."""
    share_right = result["curves"].get("answer_correct", [])
    blocks = (number for number, share in enumerate(share_right, start=1) if share >= 0.5)
    return str(BLOCK * block) if (block := next(blocks, None)) else "-"


def difference(of_seed: Mapping[str, Any], other: Mapping[str, Any], measure: str = "sampled") -> str:
    """Mean difference over the seeds that both have, in points, of three with its 95 % interval; "" for none."""
    seeds = [seed for seed in of_seed if seed in other]
    pairs = np.array([[each[seed]["after"][measure] for each in (of_seed, other)] for seed in seeds])
    if not seeds or (pairs[:, 0] == pairs[:, 1]).all():
        return ""
    points = 100 * (pairs[:, 0] - pairs[:, 1])
    if len(seeds) < 3:
        return f"{points.mean():+.1f}"
    low, high = ttest_1samp(points, 0.0).confidence_interval(0.95)
    return f"{points.mean():+.1f} [{low:+.1f}, {high:+.1f}]"
