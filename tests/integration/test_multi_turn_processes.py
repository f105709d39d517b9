"""Rollouts of several turns with two processes, one of which samples three times as often as the other."""

import json
from pathlib import Path

from helpers.several_processes import run_processes

SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from helpers import tiny_run
from r1vl_jax.config import resolve
from r1vl_jax.runtime import processes
from r1vl_jax.train import run

config = tiny_run.settings(Path({directory!r}) / "run", Path({directory!r}) / "data")
config.train.rollout_func = "helpers.two_turns:uneven"
config.train.stages, config.train.max_steps = ("step_grpo",), 1
config.loss.beta = 0.0
config.eval.num_problems, config.eval.steps = 0, 0
with processes.initialize_distributed():
    run(resolve(config))
"""


def test_a_process_that_is_done_samples_with_those_that_are_not(tmp_path):
    script = SCRIPT.format(tests=str(Path(__file__).parents[1]), directory=str(tmp_path))
    ended = run_processes(script, num_processes=2)
    assert [status for status, _ in ended] == [0, 0], ended
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (update,) = [line for line in lines if "loss" in line]
    assert update["episodes/mean_turns"] == 2  # 3 of process 0, 1 of process 1
    assert (update["episodes/ended/1"], update["episodes/ended/3"]) == (0.5, 0.5)
    assert update["sampling/sampling_logp_difference/max"] < 1e-3
    assert update["grad_norm"] > 0
