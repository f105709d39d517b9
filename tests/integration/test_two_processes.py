"""Two processes with four devices each give the metrics of one with eight. When one is killed JAX aborts the other;
started again, both resume."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from etils import epath
from helpers import tiny_run
from ml_collections import ConfigDict

from r1vl_jax.config import resolve
from r1vl_jax.observe.completions import read_completions
from r1vl_jax.train import run

REPOSITORY = Path(__file__).parents[2]
NUM_STEPS = 3
NUM_OTHER_CALLS = 3  # of the reward function: it is tried before the run, and called by two evaluations


def get_config() -> ConfigDict:
    """The recipe of both processes: this file."""
    config = tiny_run.settings(Path("unset"), Path(os.environ["R1VL_TEST_DATA"]))
    config.model.remat = "none"
    config.warmup.max_steps, config.warmup.batch_size = 1, 8
    config.sampling.temperature = 20.0  # at 1 an untrained model repeats one completion
    config.train.prompts_per_update, config.train.max_steps = 8, NUM_STEPS
    config.optim.learning_rate = 1e-3
    config.eval.num_problems, config.eval.batch_size = 5, 8  # the last process has fewer problems
    config.reward.functions = ("test_two_processes:odd_bytes",)
    return config


def odd_bytes(prompts, completions, **columns) -> list[float]:
    """A reward that depends on every byte. Kills process 1 while it scores the last rollout, once."""
    tally = Path(os.environ["R1VL_TEST_DATA"]).with_name("calls")
    if os.environ.get("JAX_PROCESS_ID") == "1":
        with tally.open("a") as file:
            file.write(".")
        if len(tally.read_text()) == NUM_OTHER_CALLS + NUM_STEPS:
            _wait_until_process_0_has_logged_an_update()
            os.kill(os.getpid(), signal.SIGKILL)
    return [sum(text.encode()) % 5 / 5 for text in completions]


def _wait_until_process_0_has_logged_an_update() -> None:
    """Its line of update 1 needs nothing of this process any more, but its host may be late on a busy machine."""
    timings = Path(os.environ["R1VL_TEST_DATA"]).with_name("two") / "timings.jsonl"
    deadline = time.monotonic() + 60
    while '"step_grpo"' not in timings.read_text() and time.monotonic() < deadline:
        time.sleep(0.1)


def start(workdir: Path) -> subprocess.Popen:
    """Starts both processes with the script that users call."""
    environment = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "4",
        "JAX_COMPILATION_CACHE_DIR": str(workdir.with_name("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "tests", Path(__file__).parent))),
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "VIRTUAL_ENV": sys.prefix,
    }
    return subprocess.Popen(
        [REPOSITORY / "launch/local.sh", "--processes=2", __file__, f"--config.workdir={workdir}"],
        env=os.environ | environment,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_jsonl(workdir: Path, name: str = "metrics.jsonl") -> list[dict]:
    return [json.loads(line) for line in (workdir / name).read_text().splitlines()]


def logged_completions(workdir: Path) -> list[tuple[str, str]]:
    rows = read_completions(epath.Path(workdir) / "completions" / f"completions_{NUM_STEPS:05d}.parquet")
    return [(row["image"], row["completion"]) for row in rows]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Iterator[dict]:
    """A run of this process with eight devices; and one of two processes, started again after one is killed."""
    shared = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("R1VL_TEST_DATA", str(shared / "data"))
        patch.syspath_prepend(Path(__file__).parent)
        killed = start(shared / "two")
        config = get_config()  # meanwhile: it takes JAX the heartbeat timeout to abort process 0
        config.workdir, config.data.directory = str(shared / "one"), str(shared / "data of one")
        run(resolve(config))
        output, _ = killed.communicate(timeout=600)
        before_restart = read_jsonl(shared / "two", "timings.jsonl")
        again = start(shared / "two")
        output_again, _ = again.communicate(timeout=600)
        yield {
            "one": shared / "one",
            "two": shared / "two",
            "statuses": (killed.returncode, again.returncode),
            "outputs": (output, output_again),
            "before_restart": before_restart,
        }


def test_when_a_process_is_killed_jax_aborts_the_other(runs):
    assert runs["statuses"][0] == 128 + signal.SIGABRT
    assert "The following tasks are unhealthy (stopped sending heartbeats):\n1\n" in runs["outputs"][0]


def test_started_again_they_resume_and_give_the_metrics_of_one_process(runs):
    assert runs["statuses"][1] == 0, runs["outputs"][1]
    assert {(line["stage"], line["step"]) for line in runs["before_restart"]} >= {("warmup", 1), ("step_grpo", 1)}
    assert read_jsonl(runs["two"], "timings.jsonl")[:2] == runs["before_restart"][:2]  # these updates were not repeated
    actual, expected = read_jsonl(runs["two"]), read_jsonl(runs["one"])
    for line, wanted in zip(actual, expected, strict=True):
        for name in [name for name in wanted if name.startswith("sampling/sampling_logp_difference/")]:
            assert max(line.pop(name), wanted.pop(name)) < 1e-4  # rounding alone
        assert line == {
            name: value if isinstance(value, str) else pytest.approx(value, rel=1e-4, abs=1e-5)
            for name, value in wanted.items()
        }
    assert all(line["reward_group_std"] > 0 for line in expected[1:])
    summary, wanted = (json.loads((runs[name] / "summary.json").read_text()) for name in ("two", "one"))
    assert summary["accuracy_by_kind"] == wanted["accuracy_by_kind"]


def test_completions_are_those_of_one_process_and_process_0_logs_its_rows(runs):
    every_row, rows = logged_completions(runs["one"]), logged_completions(runs["two"])
    assert len(every_row) == 2 * len(rows)
    assert rows == [row for number, row in enumerate(every_row) if number // 2 % 2 == 0]  # 2 completions a prompt


def test_only_one_process_writes_and_prints(runs):
    assert runs["outputs"][1].count("evaluation, step_grpo:") == 1
    names = {path.name for path in runs["two"].iterdir()}
    assert names == {path.name for path in runs["one"].iterdir()}


def test_another_number_of_processes_is_refused(runs):
    config = get_config()
    config.workdir, config.data.directory = str(runs["two"]), os.environ["R1VL_TEST_DATA"]
    with pytest.raises(
        ValueError, match="is of a run with 2 processes, each of which .* this one has 1. Start as many"
    ):
        run(resolve(config))
