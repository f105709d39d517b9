"""Photographs, coins and charts, in files of their own sizes and modes, with key steps by rule, through StepGRPO."""

from dataclasses import asdict

import numpy as np
import pytest
from helpers import tiny_run
from helpers.real_pictures import write_real_pictures

from r1vl_jax import rewards
from r1vl_jax.config import resolve
from r1vl_jax.observe.metrics import METRICS, read_lines
from r1vl_jax.response_format import compose
from r1vl_jax.train import run
from r1vl_jax.training.inputs import preflight

pytestmark = pytest.mark.usefixtures("quick")


def test_a_run(tmp_path):
    settings = tiny_run.settings(tmp_path / "run", tmp_path / "prepared")
    settings.data.source = str(write_real_pictures(tmp_path / "pictures"))
    settings.data.max_pixels, settings.data.max_prompt_length, settings.data.prompt_bucket = 50_176, 512, 128
    settings.data.test_size, settings.eval.num_problems, settings.eval.batch_size = 2.0, 2, 2
    settings.train.stages, settings.train.max_steps, settings.train.prompts_per_update = ("step_grpo",), 1, 4
    config = resolve(settings)

    inputs = preflight(config)
    assert "train: 25 of 25 rows kept, 0 dropped" in inputs.summary
    records = [record for record in inputs.splits["train"] if record.key_steps]
    assert {record.kind for record in records} == {"coins", "chart"}
    right = [compose("A picture.", "Calculate.", [record.solution], record.answer) for record in records]
    targets = [asdict(record) for record in records]
    reward = rewards.score(right, targets)
    np.testing.assert_array_equal(reward.answer_correct, 1)
    np.testing.assert_array_equal(reward.key_step_match, 1)
    # The path of another record: its answer is wrong, and so are its steps.
    np.testing.assert_array_equal(rewards.score([*right[1:], right[0]], targets).total < reward.total, True)

    summary = run(config)
    assert summary["accuracy"].keys() == {"start", "step_grpo"}
    (line,) = (line for line in read_lines(tmp_path / "run" / METRICS) if "loss" in line)
    assert np.isfinite(line["loss"])
