"""The command line of the training program: errors end it with a message, without a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["configs/nope.py"], "Configuration is not available because of an earlier failure to load"),
        (
            ["configs/tiny.py", "--config.optim.lrr=1"],
            "config.optim.lrr: no such setting; config.optim has learning_rate,",
        ),
        (
            ["configs/tiny.py", "--config.sampling.num_generations=1"],
            "the configuration is invalid:\n  sampling.num_generations=1:",
        ),
        (
            ["configs/tiny.py", "--config.model.path=nowhere"],
            "the run lacks what its configuration names:\n  config.model.path='nowhere'",
        ),
    ],
)
def test_errors_on_the_command_line_end_the_program(arguments, text, tmp_path):
    """Before any device is touched: the platform does not exist."""
    command = [sys.executable, "-m", "r1vl_jax.train", f"--config={arguments[0]}", *arguments[1:]]
    environment = os.environ | {"JAX_PLATFORMS": "absent", "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(
        [*command, f"--config.workdir={tmp_path}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith(text)
    assert "Traceback" not in ended.stderr
