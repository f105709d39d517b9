"""Both stages of a run with the Qwen2.5-VL architecture."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from tiny_run import quick  # noqa: F401 - a fixture

from r1vl_jax.config import resolve
from r1vl_jax.train import run

pytestmark = pytest.mark.usefixtures("quick")


def test_it_trains_on_the_embedded_task(tmp_path: Path):
    config = tiny_run.settings(tmp_path / "run", tmp_path / "data")
    config.model.preset = "2.5-tiny"
    run(resolve(config))
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in metrics] == [
        ("warmup", 1),
        ("warmup", 2),
        ("step_grpo", 1),
        ("step_grpo", 2),
    ]
    assert all(np.isfinite(line["loss"]) and line["num_skipped"] == 0 for line in metrics)
    assert metrics[1]["loss"] < metrics[0]["loss"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert 0 < summary["max_logp_difference"] <= 1e-4  # the sampler and the scorer are the same model
