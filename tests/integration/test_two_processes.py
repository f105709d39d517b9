"""Two processes with four devices each give the figures of one with eight; when one is killed the other ends, and all
of them started again resume."""

import json
import os
import signal
import subprocess
import sys
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


def get_config() -> ConfigDict:
    """Read by the processes as a recipe."""
    config = tiny_run.settings(Path("unset"), Path(os.environ["R1VL_TEST_DATA"]))
    config.model.remat = "none"
    config.warmup.max_steps, config.warmup.batch_size = 1, 8
    config.sampling.temperature = 20.0  # or all completions of an untrained model would be alike
    config.train.prompts_per_update, config.train.max_steps = 8, NUM_STEPS
    config.optim.learning_rate = 1e-3
    config.eval.num_problems, config.eval.batch_size = 5, 8  # the last process has fewer
    config.reward.functions = ("test_two_processes:odd_bytes",)
    return config


def odd_bytes(prompts, completions, **columns) -> list[float]:
    """A reward that depends on every byte. Kills the second process while it scores the last generation, once."""
    notes = Path(os.environ["R1VL_TEST_DATA"]).with_name("generations scored")
    if os.environ.get("JAX_PROCESS_ID") == "1":
        with notes.open("a") as file:
            file.write(".")
        if len(notes.read_text()) == NUM_STEPS:
            os.kill(os.getpid(), signal.SIGKILL)
    return [sum(text.encode()) % 5 / 5 for text in completions]


def start(workdir: Path) -> subprocess.Popen:
    """Both processes, through the script that users call."""
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


def lines(workdir: Path, name: str = "metrics.jsonl") -> list[dict]:
    return [json.loads(line) for line in (workdir / name).read_text().splitlines()]


def texts(workdir: Path) -> list[tuple[str, str]]:
    rows = read_completions(epath.Path(workdir) / "completions" / f"completions_{NUM_STEPS:05d}.parquet")
    return [(row["image"], row["completion"]) for row in rows]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Iterator[dict]:
    """One process with eight devices, the tests' own; and two, one of which is killed, started twice."""
    shared = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("R1VL_TEST_DATA", str(shared / "data"))
        patch.syspath_prepend(Path(__file__).parent)
        killed = start(shared / "two")
        config = get_config()  # meanwhile, for those left of the two wait for the one that was killed
        config.workdir, config.data.directory = str(shared / "one"), str(shared / "data of one")
        run(resolve(config))
        output, _ = killed.communicate(timeout=600)
        at_death = lines(shared / "two", "timings.jsonl")
        again = start(shared / "two")
        output_again, _ = again.communicate(timeout=600)
        yield {
            "one": shared / "one",
            "two": shared / "two",
            "statuses": (killed.returncode, again.returncode),
            "outputs": (output, output_again),
            "at_death": at_death,
        }


def test_a_killed_process_ends_the_other_with_a_sentence(runs):
    assert runs["statuses"][0] != 0
    sentence = "process 1 of 2 gave no sign of life for 20 seconds: it was killed, or its machine is gone; so this one"
    assert sentence in runs["outputs"][0]


def test_started_again_they_resume_and_give_the_figures_of_one_process(runs):
    assert runs["statuses"][1] == 0, runs["outputs"][1]
    assert {(line["stage"], line["step"]) for line in runs["at_death"]} >= {("warmup", 1), ("step_grpo", 1)}
    assert lines(runs["two"], "timings.jsonl")[:2] == runs["at_death"][:2]  # these updates were not done again
    figures, expected = lines(runs["two"]), lines(runs["one"])
    for line, wanted in zip(figures, expected, strict=True):
        for name in [name for name in wanted if name.startswith("sampling/sampling_logp_difference/")]:
            assert max(line.pop(name), wanted.pop(name)) < 1e-4  # nothing but how sums are rounded
        assert line == {
            name: value if isinstance(value, str) else pytest.approx(value, rel=1e-4, abs=1e-5)
            for name, value in wanted.items()
        }
    assert all(line["reward_group_std"] > 0 for line in expected[1:])
    summary, wanted = (json.loads((runs[name] / "summary.json").read_text()) for name in ("two", "one"))
    assert summary["accuracy_by_kind"] == wanted["accuracy_by_kind"]


def test_the_samples_are_those_of_one_process_and_the_first_writes_its_own(runs):
    everything, own = texts(runs["one"]), texts(runs["two"])
    assert len(everything) == 2 * len(own)
    assert own == [row for number, row in enumerate(everything) if number // 2 % 2 == 0]  # 2 samples a prompt


def test_one_process_writes_and_prints(runs):
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
