"""The settings of the loss family in a whole run: several updates from one generation, step-level credit, EGSW."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny_run
from ml_collections import ConfigDict

from r1vl_jax.config import resolve
from r1vl_jax.train import run
from r1vl_jax.training import step_grpo as stages

pytestmark = [pytest.mark.usefixtures("quick"), pytest.mark.slow]


def every_second_group(prompts, completions, **columns) -> list[float]:
    """Samples of every second prompt earn differently; an untrained model earns nothing."""
    return [float(row * (row // 2 % 2)) for row in range(len(completions))]


def settings(workdir: Path, data: Path) -> ConfigDict:
    config = tiny_run.settings(workdir, data)
    config.train.stages = ("step_grpo",)
    config.train.max_steps, config.train.save_steps = 4, 2
    config.eval.num_problems = config.eval.batch_size = 2
    config.optim.lr_scheduler_type = "constant"
    config.reward.functions, config.reward.function_weights = (f"{__name__}:every_second_group",), (1.0,)
    config.loss.update(
        {"loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.0, "soft_punish_cache": 16, "dynamic_sample": True},
        max_resample_times=1,
        steps_per_generation=2,
        credit="step",
        egsw_level="step",
    )
    return config


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("family")


def test_a_run_with_all_of_it(shared):
    run(resolve(settings(shared / "whole", shared / "data")))
    metrics = [line for line in lines(shared / "whole" / "metrics.jsonl") if "loss" in line]
    assert len(metrics) == 4
    for line in metrics:
        assert np.isfinite(line["loss"])
        assert line["grad_norm"] > 0
        assert line["sampling/num_rollouts"] == 2
        assert line["frac_reward_zero_std"] == 0  # two draws have two groups with spread
        assert line["sampling/sampling_logp_difference/max"] < 1e-4
        assert "kl" not in line  # the reference is not run
    assert [metrics[step]["clip_ratio/region_mean"] for step in (0, 2)] == [0, 0]  # first updates of a generation
    assert "kl" not in json.loads((shared / "whole" / "summary.json").read_text())


def test_a_run_stopped_within_a_generation_resumes_to_the_bit(shared, monkeypatch):
    if not (shared / "whole").exists():
        run(resolve(settings(shared / "whole", shared / "data")))
    step, calls = stages.step_grpo_step, []

    def stop_in_fourth(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(stages, "step_grpo_step", stop_in_fourth)
    config = resolve(settings(shared / "stopped", shared / "data"))
    with pytest.raises(KeyboardInterrupt):
        run(config)
    run(config)
    assert len(calls) == 6
    for name in ("metrics.jsonl", "summary.json"):
        assert (shared / "stopped" / name).read_bytes() == (shared / "whole" / name).read_bytes()
