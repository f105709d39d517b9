"""Runs the arms of the ablation, one after the other; a finished one is not run again."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.ablation.arms import ARMS, BOTH, LONGER_WARM_UP, RECIPE
from benchmarks.ablation.controls import write_changed
from r1vl_jax.checkpoint.hf.export import export_run

_LONGER_LEARNING_RATE = 2e-4  # the warm-up's own schedule has ended at 0


@dataclass(frozen=True)
class Runs:
    """The runs of one seed.

    Attributes:
        config: path of the recipe.
        settings: of all runs, as on the command line, beside those of an arm.
    """

    directory: Path
    config: str
    seed: int
    settings: tuple[str, ...] = ()

    def run(self, name: str) -> Path:
        """Trains an arm, and first the run whose warm-up it starts from; returns the arm's directory."""
        workdir = self.workdir(name)
        if not (workdir / "report.html").exists():  # which a run writes at its end
            settings = tuple(self._settings_of(name))
            print(f"== {workdir}", flush=True)
            options = (f"workdir={workdir}", f"seed={self.seed}", *self.settings, *settings)
            command = [sys.executable, "-m", "r1vl_jax.train", f"--config={self.config}"]
            subprocess.run([*command, *(f"--config.{option}" for option in options)], check=True)
        return workdir

    def workdir(self, name: str) -> Path:
        """Of an arm, or of the recipe, whose own StepGRPO is the arm of both step rewards."""
        name = RECIPE if name == BOTH else name
        return self.directory / f"seed{self.seed}" / "".join(c if c.isalnum() else "_" for c in name)

    def _settings_of(self, name: str) -> Iterator[str]:
        arm = ARMS[name]
        yield from arm.settings
        if not arm.base:
            yield from self._records(arm.records)
            return
        base = self.run(BOTH if arm.base == RECIPE else arm.base)
        yield f"model.path={self._export(base)}"
        if arm.records:
            yield from self._records(arm.records)
        else:
            yield f"data.directory={base / 'data'}"
        if name == LONGER_WARM_UP:
            yield f"warmup.max_steps={_num_updates_of_equal_time(base)}"
            yield f"warmup.optim.learning_rate={_LONGER_LEARNING_RATE}"
        else:
            yield "train.stages=('step_grpo',)"

    def _records(self, change: str) -> Iterator[str]:
        """The settings of changed records, which are made from those of the recipe."""
        if change:
            out = self.directory / f"seed{self.seed}" / change
            write_changed(change, self.run(BOTH) / "data", out)
            yield f"data.source={out}"

    def _export(self, base: Path) -> Path:
        """The weights at the end of a run's warm-up, for the other arms to start from."""
        weights = base.with_name(f"{base.name}_warm_up")
        if not weights.exists():
            export_run(base, weights, stage="warmup", dtype="float32")
        return weights


def _num_updates_of_equal_time(recipe: Path) -> int:
    """Supervised updates that take as long as the recipe's StepGRPO did, evaluations excluded."""
    lines = [json.loads(line) for line in (recipe / "timings.jsonl").read_text().splitlines()]
    seconds = {
        stage: [line["step_time"] for line in lines if line["stage"] == stage and "step_time" in line]
        for stage in ("warmup", "step_grpo")
    }
    return round(sum(seconds["step_grpo"]) / float(np.median(seconds["warmup"])))
