"""A whole run: what it writes, that it resumes to the bit, what it refuses, and what it compiles."""

import collections
import json
import logging
import re
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
import pytest
from etils import epath
from helpers import tiny_run

from r1vl_jax.config import resolve
from r1vl_jax.observe.completions import SCHEMA, read_completions
from r1vl_jax.train import run
from r1vl_jax.training import step_grpo as stages

pytestmark = pytest.mark.usefixtures("quick")


class Stopped(Exception):
    """What ends a run in the middle."""


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("train")


@pytest.fixture
def whole(shared) -> Path:
    """A run that nothing stopped, made by the first test that asks; with the number of times a program was compiled."""
    workdir = shared / "whole"
    if not workdir.exists():
        jax.clear_caches()  # or programs of tests before this one would not be compiled
        with compilations() as count:
            run(resolve(tiny_run.settings(workdir, shared / "data")))
        (shared / "compilations.json").write_text(json.dumps(count))
    return workdir


class compilations:  # noqa: N801 - used as a function
    """Counts the compilations of each jitted function in its block."""

    def __enter__(self) -> collections.Counter:
        self._count, self._handler = collections.Counter(), logging.Handler()
        self._handler.emit = self._note
        logging.getLogger("jax").addHandler(self._handler)
        jax.config.update("jax_log_compiles", True)
        return self._count

    def __exit__(self, *exception: object) -> None:
        jax.config.update("jax_log_compiles", False)
        logging.getLogger("jax").removeHandler(self._handler)

    def _note(self, record: logging.LogRecord) -> None:
        if found := re.match(r"Compiling (?:jit\()?(\w+)", record.getMessage()):
            self._count[found.group(1)] += 1


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def state(workdir: Path) -> dict[str, np.ndarray]:
    """The leaves of the last checkpoint of StepGRPO by their path."""
    with ocp.training.Checkpointer(epath.Path(workdir) / "checkpoints" / "step_grpo") as checkpointer:
        return jax.tree.map(np.asarray, checkpointer.load(2))


def test_metrics_and_summary(whole):
    metrics = lines(whole / "metrics.jsonl")
    assert [(line["stage"], line["step"]) for line in metrics] == [
        ("warmup", 1),
        ("warmup", 2),
        ("step_grpo", 1),
        ("step_grpo", 2),
    ]
    assert all(np.isfinite(line["loss"]) and line["num_skipped"] == 0 for line in metrics)
    assert all(line["grad_norm"] > 0 for line in metrics)
    assert all(line["rewards/second_earns_more/mean"] == 0.5 for line in metrics[2:])
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["accuracy"].keys() == {"start", "warmup", "step_grpo"}
    assert summary["accuracy_hard"]["warmup"] == {"greedy": summary["accuracy_by_kind"]["warmup"]["by_23"]}
    assert 0 < summary["max_logp_difference"] <= 1e-4
    assert summary["kl"] == np.mean([line["kl"] for line in metrics[2:]])


def test_timings_belong_to_their_step(whole):
    updates = [line for line in lines(whole / "timings.jsonl") if "step_time" in line]
    parts = {"warmup": {"data", "update"}, "step_grpo": {"data", "gen", "ref", "reward", "update"}}
    for line in updates:
        seconds = {
            name.removeprefix("timing_s/"): value for name, value in line.items() if name.startswith("timing_s/")
        }
        assert seconds.keys() == parts[line["stage"]]
        assert sum(seconds.values()) <= line["step_time"]
    assert len(updates) == 4


def test_files_of_the_run(whole):
    manifest = json.loads((whole / "manifest.json").read_text())
    assert manifest["configuration"]["train"]["max_steps"] == 2
    machine = json.loads((whole / "machine.json").read_text())
    assert machine["seconds"] > 0
    assert machine["peak_memory_gib"] > 0.1
    rows = read_completions(epath.Path(whole) / "completions" / "completions_00002.parquet")
    assert [row["step"] for row in rows] == [2, 2, 2, 2]
    assert list(rows[0]) == [*SCHEMA.names, "second_earns_more"]
    assert [row["second_earns_more"] for row in rows] == [0, 1, 0, 1]
    assert "<svg" in (whole / "report.html").read_text()
    for stage in ("warmup", "step_grpo"):
        assert (whole / "checkpoints" / stage / "2").is_dir()


def test_the_second_update_compiles_nothing(whole):
    count = json.loads((whole.parent / "compilations.json").read_text())
    programs = ("sft_step", "step_grpo_step", "compute_logps")
    assert {name: count.get(name, 0) for name in programs} == dict.fromkeys(programs, 1)
    assert count["prefill"] == count["decode"] == 2  # greedy for evaluation, and to learn from


def test_the_next_run_finds_every_program_on_disk(whole):
    """In another workdir, too."""
    found = collections.Counter()

    def note(event: str, **_: object) -> None:
        found[event.rpartition("/")[2]] += 1

    jax.clear_caches()  # of the process, as if it were a new one
    jax.monitoring.register_event_listener(note)
    try:
        run(resolve(tiny_run.settings(whole.parent / "next", whole.parent / "data")))
    finally:
        jax.monitoring.unregister_event_listener(note)
    assert found["cache_hits"] > 20
    assert found["cache_misses"] == 0


def test_a_stopped_run_resumes_to_the_bit(whole, monkeypatch):
    config = resolve(tiny_run.settings(whole.parent / "stopped", whole.parent / "data"))
    step, calls = stages.step_grpo_step, []

    def stop_in_second(*args):
        calls.append(args)
        if len(calls) == 2:
            raise Stopped
        return step(*args)

    monkeypatch.setattr(stages, "step_grpo_step", stop_in_second)
    with pytest.raises(Stopped):
        run(config)
    stopped = Path(config.workdir)
    assert len(lines(stopped / "metrics.jsonl")) == 3
    run(config)
    assert len(calls) == 3  # the first update was not done again
    for name in ("metrics.jsonl", "summary.json"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()
    jax.tree.map(np.testing.assert_array_equal, state(stopped), state(whole))


def test_another_configuration_is_refused_before_training(whole):
    config = tiny_run.settings(whole, whole.parent / "data")
    config.optim.learning_rate = 2e-3
    before = (whole / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"another configuration[\s\S]*optim.learning_rate: 0.001 -> 0.002"):
        run(resolve(config))
    assert (whole / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow  # a minute, nearly all of it compiling
def test_qwen2_5_vl_trains_too(shared):
    config = tiny_run.settings(shared / "qwen2_5_vl", shared / "data")
    config.model.preset, config.model.remat = "2.5-tiny", "none"
    config.warmup.max_steps = config.train.max_steps = 1
    run(resolve(config))
    metrics = lines(shared / "qwen2_5_vl" / "metrics.jsonl")
    assert [line["stage"] for line in metrics] == ["warmup", "step_grpo"]
    assert all(np.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in metrics)
    summary = json.loads((shared / "qwen2_5_vl" / "summary.json").read_text())
    assert 0 < summary["max_logp_difference"] <= 1e-4
