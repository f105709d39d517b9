"""Metrics: plain numbers, and files that a resumed run leaves as an uninterrupted one would."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.event_file_writer import EventFileWriter

from r1vl_jax import observe
from r1vl_jax.observe import metrics


def log(writer: observe.MetricsWriter, stage: str, steps: range) -> None:
    for step in steps:
        writer.write(stage, step, {"loss": 1 / (step + 3), "num_tokens": 7 * step}, {"step_time": 0.5})


def test_a_line_is_one_object_with_plain_numbers(tmp_path):
    writer = observe.MetricsWriter(tmp_path / "run", tensorboard=False)
    numbers = {"loss": jnp.float32(0.1), "reward": np.float64(0.1), "num_tokens": np.int64(3), "kl": float("nan")}
    writer.write("step_grpo", 1, numbers, {"timing_s/gen": 2.5})
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    expected = {"stage": "step_grpo", "step": 1, "loss": float(np.float32(0.1)), "reward": 0.1, "num_tokens": 3}
    assert [json.loads(line) for line in lines] == [{**expected, "kl": None}]
    timings = (tmp_path / "run" / "timings.jsonl").read_text()
    assert timings == '{"stage": "step_grpo", "step": 1, "timing_s/gen": 2.5}\n'


def test_a_line_without_numbers_is_not_written(tmp_path):
    observe.MetricsWriter(tmp_path, tensorboard=False).write("warmup", 1, {"loss": 1.0})
    assert not (tmp_path / "timings.jsonl").exists()


def test_a_resumed_run_writes_the_same_bytes(tmp_path):
    uninterrupted = observe.MetricsWriter(tmp_path / "uninterrupted", tensorboard=False)
    log(uninterrupted, "warmup", range(1, 5))
    log(uninterrupted, "step_grpo", range(0, 7))

    killed = observe.MetricsWriter(tmp_path / "killed", tensorboard=False)
    log(killed, "warmup", range(1, 5))
    log(killed, "step_grpo", range(0, 6))
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "step_grpo", "st')

    resumed = observe.MetricsWriter(tmp_path / "killed", tensorboard=False)
    resumed.rewind({"warmup": 4, "step_grpo": 2})
    log(resumed, "step_grpo", range(3, 7))
    for name in ("metrics.jsonl", "timings.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "uninterrupted" / name).read_bytes()


def test_rewind_drops_the_lines_of_stages_that_restart(tmp_path):
    writer = observe.MetricsWriter(tmp_path, tensorboard=False)
    log(writer, "warmup", range(1, 4))
    log(writer, "step_grpo", range(0, 2))
    writer.rewind({"warmup": 2})
    lines = metrics.read_lines(tmp_path / "metrics.jsonl")
    assert [(line["stage"], line["step"]) for line in lines] == [("warmup", 1), ("warmup", 2)]


def test_tensorboard_gets_a_directory_for_each_stage(tmp_path):
    writer = observe.MetricsWriter(tmp_path, tensorboard=True)
    log(writer, "warmup", range(1, 3))
    log(writer, "step_grpo", range(1, 2))
    writer.close()
    for stage in ("warmup", "step_grpo"):
        (events,) = (tmp_path / "tensorboard" / stage).iterdir()
        assert b"num_tokens" in events.read_bytes()
        assert b"step_time" in events.read_bytes()


def test_tensorboard_purges_the_steps_that_are_run_again(tmp_path, monkeypatch):
    """A resumed run tells TensorBoard to drop events from the first repeated step on."""
    events = []
    monkeypatch.setattr(EventFileWriter, "add_event", lambda self, event, **kwargs: events.append(event))
    writer = observe.MetricsWriter(tmp_path, tensorboard=True)
    writer.rewind({"warmup": 4})
    log(writer, "warmup", range(5, 6))
    log(writer, "step_grpo", range(0, 1))
    purged = [event.step for event in events if event.HasField("session_log")]
    assert purged == [5, 0]


def test_timers_add_up_and_reset(monkeypatch):
    clock = iter([0.0, 1.0, 10.0, 12.5, 20.0, 20.5])
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: next(clock))
    timers = observe.Timers()
    for name in ("gen", "gen"):
        with timers(name):
            pass
    with pytest.raises(RuntimeError), timers("reward"):
        raise RuntimeError
    assert timers.take() == {"timing_s/gen": 3.5, "timing_s/reward": 0.5}
    assert timers.take() == {}
