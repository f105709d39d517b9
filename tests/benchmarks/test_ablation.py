"""The ablation: its arms are valid runs, its controls change what they say, and its results resume."""

import contextlib
import dataclasses
import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from benchmarks.ablation import __main__ as program
from benchmarks.ablation import arms, controls, plots, results
from benchmarks.ablation.runs import Runs
from r1vl_jax import rewards
from r1vl_jax.config import resolve
from r1vl_jax.data.digits import task
from r1vl_jax.data.records import open_split
from r1vl_jax.rewards import custom

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("ablation") / "data"
    sizes = {"warmup_records": 400, "train_records": 30, "eval_records": 4}
    task.write(directory, difficulty=3, shortcut_probability=0.6, **sizes, seed=0)
    return directory


def config_of(settings: tuple[str, ...]):
    recipe = runpy.run_path(str(ROOT / "configs" / "tiny.py"))["get_config"]()
    for setting in settings:
        name, value = setting.split("=", 1)
        with contextlib.suppress(NameError):  # a text without quotation marks
            value = eval(value)
        recipe.update_from_flattened_dict({name: value})
    return resolve(recipe)


@pytest.mark.parametrize("name", arms.ARMS)
def test_the_settings_of_an_arm_are_accepted(name):
    arm = arms.ARMS[name]
    config = config_of(arm.settings)
    assert arm.prediction
    assert arm.base in ("", arms.RECIPE, *arms.ARMS)
    assert arm.records in ("", *controls.CHANGES)
    assert len(custom.load(config.reward.functions, config.reward.function_weights)) == len(config.reward.functions)


def columns(data: Path, *, group_size: int):
    """Columns of two groups of completions, as a run gives them: whole paths, hasty ones and nonsense."""
    records = [record for record in list(open_split(data, "test"))[:2] for _ in range(group_size)]
    rows = [rewards_row(record, number % group_size) for number, record in enumerate(records)]
    names = [field.name for field in dataclasses.fields(records[0])]
    return rows, {name: [getattr(record, name) for record in records] for name in names}


def rewards_row(record, number: int) -> str:
    first_step = record.solution.split("### The final")[0]
    return (record.solution, first_step, "nonsense", f"{first_step}### The final answer is:\n-1")[number]


def test_shuffled_rewards_are_those_of_the_group_in_another_order(data):
    completions, of = columns(data, group_size=4)
    records = [{"answer": a, "key_steps": k} for a, k in zip(of["answer"], of["key_steps"], strict=True)]
    total = rewards.score(completions, records).total
    shuffled = np.array(controls.shuffled_rewards([""] * 8, completions, **of))
    assert shuffled.tolist() != total.tolist()
    np.testing.assert_array_equal(np.sort(shuffled.reshape(2, 4)), np.sort(total.reshape(2, 4)))
    assert controls.shuffled_rewards([""] * 8, completions, **of) == shuffled.tolist()  # a resumed run repeats it


def test_key_steps_alone_do_not_mind_the_answer(data):
    completions, of = columns(data, group_size=4)
    assert controls.key_steps_alone([""] * 8, completions, **of) == [1, 1, 0, 1, 1, 1, 0, 1]


def test_the_number_of_steps_does_not_mind_what_they_say(data):
    completions, of = columns(data, group_size=4)
    whole, _, nonsense, _ = completions[:4]
    num_steps = whole.count("### Step")
    claims = "### Step 1:\nno\n\n" * (num_steps + 1)
    of["solution"] = of["answer"]  # as in the split that is trained on
    rewards_given = controls.answer_and_number_of_steps(
        [""] * 4, [whole, claims, "### Step 1:\nno", nonsense], **{name: values[:4] for name, values in of.items()}
    )
    np.testing.assert_allclose(rewards_given, [1.1, 0.1, 0.1 / num_steps, 0])


def test_key_steps_are_shuffled_between_the_records_of_step_grpo_alone(data, tmp_path):
    controls.write_changed("shuffled_key_steps", data, tmp_path / "out")
    before, after = (list(open_split(directory, "train")) for directory in (data, tmp_path / "out"))
    assert sorted(record.key_steps for record in after) == sorted(record.key_steps for record in before)
    assert sum(a.key_steps != b.key_steps for a, b in zip(after, before, strict=True)) > 25
    assert [dataclasses.replace(record, key_steps=()) for record in after] == [
        dataclasses.replace(record, key_steps=()) for record in before
    ]
    assert list(open_split(tmp_path / "out", "test")) == list(open_split(data, "test"))


def test_one_habit_is_a_draw_for_the_whole_path(data, tmp_path):
    controls.write_changed("one_habit", data, tmp_path / "out")
    hard = [record for record in open_split(tmp_path / "out", "warmup") if record.kind == "by_23"]
    is_whole = [record.response == record.solution for record in hard]
    assert 0.02 < np.mean(is_whole) < 0.1
    for record, whole in zip(hard, is_whole, strict=True):
        assert whole or record.response.count("### Step") == 1
        reward = rewards.score([record.response], [{"answer": record.answer, "key_steps": record.key_steps}])
        assert reward.answer_correct[0] == reward.step_validity[0] == 1
        assert reward.key_step_match[0] == whole


@pytest.fixture
def trained(monkeypatch) -> list[tuple[str, ...]]:
    """Names of settings of the runs that were started; each leaves the files of a run behind."""
    started = []

    def train(command, check):
        options = dict(option.removeprefix("--config.").split("=", 1) for option in command[4:])
        started.append(options)
        workdir = Path(options["workdir"])
        workdir.mkdir(parents=True)
        stages = ("warmup",) if "'warmup'" in options.get("train.stages", "") else ("warmup", "step_grpo")
        gain = 0.5 if options.keys() <= {"workdir", "seed", "loss.beta"} else 0.1
        accuracy = {"warmup": 0.05, "step_grpo": 0.05 + gain + 0.01 * int(options["seed"])}
        summary = {
            "accuracy": {stage: accuracy[stage] for stage in stages},
            "accuracy_by_kind": {stage: {"by_23": accuracy[stage]} for stage in stages},
            "accuracy_hard": {s: {"greedy": accuracy[s], "sampled": accuracy[s]} for s in stages},
        }
        (workdir / "summary.json").write_text(json.dumps(summary))
        lines = [
            {"stage": stage, "step": step, "step_time": 2.0 if stage == "step_grpo" else 0.5}
            | dict.fromkeys(results.CURVES.values(), 0.1 * step)
            for stage in stages
            for step in range(1, 11)
        ]
        held_out = {"eval/accuracy_hard/greedy": 0.2, "eval/accuracy_hard/sampled": 0.1}
        lines.append({"stage": stages[-1], "step": 10, **held_out})
        for name in ("metrics.jsonl", "timings.jsonl"):
            (workdir / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        (workdir / "manifest.json").write_text('{"git_revision": "abc"}')
        (workdir / "report.html").touch()

    monkeypatch.setattr("benchmarks.ablation.runs.subprocess.run", train)
    monkeypatch.setattr("benchmarks.ablation.runs.export_run", lambda run, out, **_: out.mkdir())
    monkeypatch.setattr("benchmarks.ablation.runs.write_changed", lambda *_: None)
    return started


def run_program(monkeypatch, tmp_path, *arguments: str) -> None:
    places = [f"--out={tmp_path}/runs", f"--results={tmp_path}/ablation.json"]
    monkeypatch.setattr("sys.argv", ["ablation", *places, *arguments])
    program.main()


def test_arms_start_from_one_warm_up_and_finished_ones_are_not_run_again(monkeypatch, tmp_path, trained, capsys):
    run_program(monkeypatch, tmp_path, "--seeds", "0", "1", "2", "--arms", arms.ANSWER_ONLY)
    assert [Path(options["workdir"]).name for options in trained] == ["recipe", "answer_only"] * 3
    assert trained[1]["model.path"].endswith("seed0/recipe_warm_up")
    assert trained[1]["data.directory"].endswith("seed0/recipe/data")
    run_program(monkeypatch, tmp_path, "--seeds", "0", "1", "2", "--arms", arms.ANSWER_ONLY, arms.BOTH)
    assert len(trained) == 6
    table = capsys.readouterr().out.split("\n\n")[-1]
    assert "| warm-up |  | 0.05 | 0.05 0.05 0.05 | 0.05 | -51.0 " in table
    assert "| 0.56 | 0.55 0.56 0.57 | 0.56 |  | +40.0 " in table
    assert "| 10 10 10 |" in table  # the second block of five updates has a mean of 0.8
    kept = json.loads((tmp_path / "ablation.json").read_text())
    assert list(kept) == [arms.BOTH, arms.ANSWER_ONLY]
    assert kept[arms.BOTH]["1"]["before"] == {"greedy": 0.05, "sampled": 0.05, "all": 0.05}
    assert kept[arms.BOTH]["1"]["curves"]["reward"] == [0.3, 0.8]
    assert kept[arms.BOTH]["1"]["kinds"] == {"by_23": 0.56}
    assert kept[arms.BOTH]["1"]["git_revision"] == "abc"
    assert kept[arms.BOTH]["1"]["held_out"] == [[10, 0.2, 0.1]]
    assert (tmp_path / "ablation.png").stat().st_size > 10_000


def test_results_of_other_settings_are_not_mixed(monkeypatch, tmp_path, trained, capsys):
    run_program(monkeypatch, tmp_path, "--seeds", "0", "--arms", arms.BOTH, "--set", "loss.beta=0.1")
    with pytest.raises(SystemExit):
        run_program(monkeypatch, tmp_path, "--seeds", "1", "--arms", arms.BOTH)
    message = "arm 'both step rewards', seed 0, was run with --set loss.beta=0.1, now (nothing)"
    assert message in capsys.readouterr().err
    assert len(trained) == 1


def test_longer_imitation_has_the_time_of_step_grpo(tmp_path, trained):
    Runs(tmp_path, "configs/tiny.py", 0).run(arms.LONGER_WARM_UP)
    assert trained[1]["warmup.max_steps"] == "40"  # ten updates of 2 s, at half a second each
    assert trained[1]["train.stages"] == "('warmup',)"


def test_one_habit_has_a_warm_up_of_its_own(tmp_path, trained):
    Runs(tmp_path, "configs/tiny.py", 0).run("one habit a record: answer only")
    recipe, base, arm = trained
    assert "model.path" not in base
    assert base["data.source"] == arm["data.source"] == str(tmp_path / "seed0" / "one_habit")
    assert arm["model.path"] == base["workdir"] + "_warm_up"


def test_a_difference_needs_seeds_that_both_have():
    def of(*values: float) -> dict:
        return {str(seed): {"after": {"sampled": value}} for seed, value in enumerate(values)}

    assert results.difference(of(0.5, 0.6), {"0": {"after": {"sampled": 0.1}}}) == "+40.0"
    assert results.difference(of(0.5), {}) == ""
    assert results.difference(of(0.3, 0.5, 0.4), of(0.2, 0.3, 0.3)) == "+13.3 [-1.0, +27.7]"


def test_the_current_directory_is_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sys.argv", ["ablation", "--out=."])
    with pytest.raises(SystemExit):
        program.main()
    assert "--out: expected a directory" in capsys.readouterr().err


def test_the_picture_leaves_out_what_was_not_run(tmp_path):
    plots.plot({}, tmp_path / "empty.png")
    assert (tmp_path / "empty.png").exists()
