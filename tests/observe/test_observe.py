"""What a run writes: files that a resumed run leaves as an uninterrupted one would, and a readable console."""

import dataclasses
import io
import json
import subprocess
import sys
import textwrap

import jax.numpy as jnp
import numpy as np
import pytest
from pyarrow import parquet
from rich.console import Console
from tensorboardX.event_file_writer import EventFileWriter

from r1vl_jax import config, observe
from r1vl_jax.observe import manifest, metrics, progress, results
from r1vl_jax.observe.completions import SCHEMA, read_completions


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
    whole = observe.MetricsWriter(tmp_path / "whole", tensorboard=False)
    log(whole, "warmup", range(1, 5))
    log(whole, "step_grpo", range(0, 7))

    killed = observe.MetricsWriter(tmp_path / "killed", tensorboard=False)
    log(killed, "warmup", range(1, 5))
    log(killed, "step_grpo", range(0, 6))
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "step_grpo", "st')

    resumed = observe.MetricsWriter(tmp_path / "killed", tensorboard=False)
    resumed.rewind({"warmup": 4, "step_grpo": 2})
    log(resumed, "step_grpo", range(3, 7))
    for name in ("metrics.jsonl", "timings.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_rewinding_drops_stages_that_begin_again(tmp_path):
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


def test_tensorboard_forgets_the_steps_that_are_run_again(tmp_path, monkeypatch):
    """A resumed run tells TensorBoard to drop what it had seen from the first step that is run again."""
    events = []
    monkeypatch.setattr(EventFileWriter, "add_event", lambda self, event, **kwargs: events.append(event))
    writer = observe.MetricsWriter(tmp_path, tensorboard=True)
    writer.rewind({"warmup": 4})
    log(writer, "warmup", range(5, 6))
    log(writer, "step_grpo", range(0, 1))
    purged = [event.step for event in events if event.HasField("session_log")]
    assert purged == [5, 0]


def test_timers_add_up_and_start_again(monkeypatch):
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


@pytest.fixture
def settings(tmp_path) -> config.Config:
    return config.Config(workdir=str(tmp_path), seed=3)


def test_manifest_tells_what_the_run_was_made_from(tmp_path, settings):
    observe.write_manifest(tmp_path, settings, data_fingerprint="abc")
    written = json.loads((tmp_path / "manifest.json").read_text())
    assert written["configuration"]["train"]["stages"] == ["warmup", "step_grpo"]
    assert (written["seed"], written["data_fingerprint"]) == (3, "abc")
    assert written["versions"]["jax"].count(".") >= 2
    assert written["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))


def test_manifest_names_the_commit_and_whether_files_changed(tmp_path, monkeypatch):
    module = tmp_path / "manifest.py"
    monkeypatch.setattr(manifest, "__file__", str(module))
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run([*git, "init", "-q"], check=True)
    module.write_text("a")
    assert manifest._git_revision() is None  # in a checkout, but not of it
    subprocess.run([*git, "add", "manifest.py"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "m"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert manifest._git_revision() == head
    module.write_text("b")
    assert manifest._git_revision() == f"{head}-dirty"


def test_a_resumed_run_keeps_its_manifest_and_may_observe_otherwise(tmp_path, settings, caplog):
    observe.write_manifest(tmp_path, settings, data_fingerprint="abc")
    before = (tmp_path / "manifest.json").read_bytes()
    free = {"eval": config.Eval(num_problems=5), "observe": config.Observe(tensorboard=False), "workdir": "moved"}
    observe.write_manifest(tmp_path, dataclasses.replace(settings, **free), data_fingerprint="abc")
    assert (tmp_path / "manifest.json").read_bytes() == before
    assert not caplog.records


def test_a_resumed_run_may_need_less_memory(tmp_path, settings, caplog):
    observe.write_manifest(tmp_path, settings, data_fingerprint="abc")
    smaller = dataclasses.replace(
        settings,
        train=dataclasses.replace(settings.train, micro_batches=4, compile_cache="elsewhere"),
        model=dataclasses.replace(settings.model, remat="dots"),
    )
    with caplog.at_level("WARNING"):
        observe.write_manifest(tmp_path, smaller, data_fingerprint="abc")
    (record,) = caplog.records
    assert "so not to the bit: model.remat: 'block' -> 'dots'; train.micro_batches: 1 -> 4" in record.getMessage()
    assert "compile_cache" not in record.getMessage()


def test_a_directory_of_another_configuration_is_refused(tmp_path, settings):
    observe.check_workdir(tmp_path, settings)  # nothing there yet
    observe.write_manifest(tmp_path, settings, data_fingerprint="abc")
    other = dataclasses.replace(settings, seed=4, loss=config.Loss(beta=0.0), eval=config.Eval(steps=9))
    with pytest.raises(
        ValueError, match="holds a run of another configuration; set config.workdir to another"
    ) as error:
        observe.check_workdir(tmp_path, other)
    assert str(error.value).split("\n  ")[1:] == ["loss.beta: 0.04 -> 0.0", "seed: 3 -> 4"]


def test_a_run_from_before_weights_were_fingerprinted_goes_on(tmp_path, settings):
    observe.write_manifest(tmp_path, settings, data_fingerprint="abc")
    path = tmp_path / "manifest.json"
    before = json.loads(path.read_text())
    del before["weights_fingerprint"]
    path.write_text(json.dumps(before))
    observe.write_manifest(tmp_path, settings, data_fingerprint="abc", weights_fingerprint="xyz")


@pytest.mark.parametrize("what", ["data", "weights"])
def test_other_data_and_other_weights_are_refused(tmp_path, settings, what):
    fingerprints = {"data_fingerprint": "abc", "weights_fingerprint": "abc"}
    observe.write_manifest(tmp_path, settings, **fingerprints)
    observe.write_manifest(tmp_path, settings, **fingerprints)
    with pytest.raises(ValueError, match=rf"the {what} changed .*abc -> xyz\); restore the {what}, or choose another"):
        observe.write_manifest(tmp_path, settings, **fingerprints | {f"{what}_fingerprint": "xyz"})


def test_other_versions_are_said(tmp_path, settings, caplog, monkeypatch):
    observe.write_manifest(tmp_path, settings, data_fingerprint="abc")
    before = manifest._versions
    monkeypatch.setattr(manifest, "_versions", lambda: {**dict(before()), "numpy": "0.1"}.items())
    observe.write_manifest(tmp_path, settings, data_fingerprint="abc")
    assert f"numpy: {np.__version__!r} -> '0.1'" in caplog.text


def test_results_are_merged_by_dotted_name(tmp_path):
    observe.update_summary(tmp_path, {"accuracy.start": 0.1, "num_problems": 1000})
    observe.update_summary(tmp_path, {"accuracy.warmup": 0.4, "accuracy.start": 0.2})
    expected = {"accuracy": {"start": 0.2, "warmup": 0.4}, "num_problems": 1000}
    assert json.loads((tmp_path / "summary.json").read_text()) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
    with pytest.raises(ValueError, match="'num_problems.test' needs 'num_problems' to be a group, but it is 1000"):
        observe.update_summary(tmp_path, {"num_problems.test": 1})


def test_costs_add_up_over_resumed_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "peak_memory_gib", lambda: 2.0)
    observe.write_machine(tmp_path, seconds=10.0)
    monkeypatch.setattr(results, "peak_memory_gib", lambda: 1.5)
    written = observe.write_machine(tmp_path, seconds=2.5)
    assert written == json.loads((tmp_path / "machine.json").read_text())
    assert (written["seconds"], written["peak_memory_gib"], written["device"]) == (12.5, 2.0, "8 x cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of children is read from /proc")
def test_peak_memory_counts_living_workers(tmp_path):
    """256 MiB here and 128 MiB in a worker, freed again; a small worker of a large process adds little."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
        import subprocess
        import sys
        import threading

        from r1vl_jax.observe.results import peak_memory_gib

        WORK = "import sys; bytes(range(256)) * (int(sys.argv[1]) // 256); print(flush=True); input()"

        def work(size):
            command = [sys.executable, "-c", WORK, str(size)]
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE).stdout.readline()

        def added(size):
            before = peak_memory_gib()
            thread = threading.Thread(target=work, args=(size,))
            thread.start()
            thread.join()
            return peak_memory_gib() - before

        start = peak_memory_gib()
        bytes(range(256)) * 2**20
        print(peak_memory_gib() - start, added(256), added(2**27))
        """)
    )
    printed = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True).stdout
    own, small, large = map(float, printed.split())
    assert own == pytest.approx(0.25, abs=0.02)
    assert large - small == pytest.approx(0.125, abs=0.02)
    assert 0 < small < 0.5


def test_the_cost_counts_while_a_run_goes_on(tmp_path, monkeypatch):
    times = iter([100.0, 107.0, 110.0])
    monkeypatch.setattr(results.time, "monotonic", lambda: next(times))
    cost = observe.ResourceUsage(tmp_path)
    assert cost.write()["seconds"] == 7.0
    assert cost.write()["seconds"] == 10.0


def completion(**changes) -> dict:
    row = {field.name: 0.5 if str(field.type) == "double" else "" for field in SCHEMA}
    return {**row, "step": 7, "image": b"\x89PNG", "prompt": "3 + 4?", "completion": "### Step 1:\n7", **changes}


def test_completions_come_back(tmp_path):
    rows = [completion(), completion(reward=2.1, completion="é \x00 \N{GRINNING FACE}", image=b"")]
    path = observe.write_completions(tmp_path, 7, rows)
    assert path == tmp_path / "completions" / "completions_00007.parquet"
    assert read_completions(path) == rows
    assert parquet.read_schema(path).names == SCHEMA.names


def test_completions_with_other_columns_are_refused(tmp_path):
    row = completion(rewrad=1.0)
    del row["reward"]
    with pytest.raises(ValueError, match=r"step 7: missing columns \['reward'\], unknown columns \['rewrad'\]"):
        observe.write_completions(tmp_path, 7, [row])


def test_table_shows_model_output_as_it_is():
    console = Console(file=io.StringIO(), width=80)
    row = completion(
        completion="[red]a[/red] [b \x1b[31m\x9b", prompt="3 + 4?\n<image>", answer="7", reward=1.25, advantage=-0.7
    )
    observe.print_completions([row], console=console)
    shown = console.file.getvalue()
    assert "<image>" not in shown
    for text in ("[red]a[/red] [b ␛[31m\ufffd", " 3 + 4?", "answer: 7", "reward     1.25", "advantage -0.70"):
        assert text in shown


def test_a_log_gets_a_line_now_and_then(monkeypatch):
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
