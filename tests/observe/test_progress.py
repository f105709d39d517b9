"""Progress in a log and on a terminal."""

import io

from rich.console import Console

from r1vl_jax import observe
from r1vl_jax.observe import progress


def test_a_log_gets_a_line_every_ten_seconds(monkeypatch):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    console = Console(file=io.StringIO(), force_terminal=False, width=40)
    with observe.Progress("step_grpo", 24, first=4, console=console) as bar:
        for step in range(5, 25):
            now += 3.0
            bar.update(step, {"reward": 1.23456})
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "step_grpo  8/24  0:00:48 left  reward 1.23"
    assert [line.split()[1] for line in lines] == ["8/24", "12/24", "16/24", "20/24", "24/24"]
    assert lines[-1] == "step_grpo  24/24  0:00:00 left  reward 1.23"


def test_a_terminal_gets_a_bar():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with observe.Progress("warmup", 2, console=console) as bar:
        bar.update(1)
        bar.update(2, {"loss": 0.5})
    shown = console.file.getvalue()
    assert "warmup" in shown
    assert "2/2" in shown
    assert "loss 0.5" in shown
