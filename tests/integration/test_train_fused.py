"""Whole runs with rewards on the device: the fused step leaves the same records as the staged loop."""

import json
from pathlib import Path

import jax.numpy as jnp
import pytest
from etils import epath
from helpers import tiny_run

from r1vl_jax.config import resolve
from r1vl_jax.observe.completions import read_completions
from r1vl_jax.train import run

pytestmark = [pytest.mark.usefixtures("quick"), pytest.mark.slow]


def second(byte_BU, length_B, key_steps, answers):
    """A reward for the second sample of each prompt: an untrained model earns nothing, so nothing would be learned."""
    return jnp.arange(length_B.shape[0]) % 2


def trained(workdir: Path, data: Path, *, fused: bool) -> tuple[list[dict], list[dict]]:
    """Metrics of the updates, and the completions of the last."""
    config = tiny_run.settings(workdir, data)
    config.train.stages, config.train.fused = ("step_grpo",), fused
    config.train.max_steps = 3
    config.reward.backend, config.reward.undecided = "kernels", "wrong"
    config.reward.functions, config.reward.function_weights = (f"{__name__}:second",), (0.5,)
    run(resolve(config))
    metrics = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return metrics, read_completions(epath.Path(workdir) / "completions" / "completions_00003.parquet")


def test_a_fused_run_is_a_staged_run(tmp_path):
    (staged, staged_rows), (fused, fused_rows) = (
        trained(tmp_path / name, tmp_path / "data", fused=name == "fused") for name in ("staged", "fused")
    )
    assert len(staged) == len(fused) == 3
    for one, other in zip(staged, fused, strict=True):
        assert one.pop("stage") == other.pop("stage") == "step_grpo"
        assert other == pytest.approx(one, rel=1e-3, abs=1e-5)
        assert one["reward"] == other["reward"] > 0
        assert one["grad_norm"] > 0
    for one, other in zip(staged_rows, fused_rows, strict=True):
        assert one["completion"] == other["completion"]
        assert one["advantage"] == pytest.approx(other["advantage"], abs=1e-5)
    assert [row["second"] for row in fused_rows] == [0, 1, 0, 1]
