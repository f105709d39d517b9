"""A model is evaluated on a data set: predictions are kept, resumed, and counted over all records that were asked."""

import base64
import dataclasses
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.benchmark_files import row, write_tsv
from helpers.chat_model import write_chat_model
from PIL import Image
from pyarrow import parquet
from safetensors.numpy import load_file, save_file

import r1vl_jax
import r1vl_jax.evaluate
from r1vl_jax import rewards
from r1vl_jax.chat.generation import Settings
from r1vl_jax.chat.pretrained import Answer, Pretrained
from r1vl_jax.config import Data, default, resolve
from r1vl_jax.data.digits import task
from r1vl_jax.evaluate import evaluate
from r1vl_jax.evaluation.pass_at_k import pass_at_k
from r1vl_jax.evaluation.predictions import SCHEMA
from r1vl_jax.observe import write_manifest
from r1vl_jax.training.held_out import DataSource, data_of
from r1vl_jax.training.sources import prepare_sources

SETTINGS = Settings(max_new_tokens=8)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and seven records of which the picture of one is damaged."""
    directory = tmp_path_factory.mktemp("evaluate")
    write_chat_model(directory / "model", "qwen2_vl")
    rows = []
    for number in range(7):
        buffer = io.BytesIO()
        Image.new("RGB", (40 + number, 30), (number * 30, 0, 0)).save(buffer, "PNG")
        content = buffer.getvalue() if number != 3 else b"no picture"
        (directory / f"{number}.png").write_bytes(content)
        answer = {"answer": str(number), "solution": str(number)}
        rows.append({"id": f"r{number}", "problem": "<image>How red?", "image_path": f"{number}.png", **answer})
    (directory / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return directory


@pytest.fixture(scope="module")
def model(directory: Path) -> Pretrained:
    return r1vl_jax.load(str(directory / "model"))


def run(model, directory, out, **options):
    settings = options.pop("settings", SETTINGS)
    source = DataSource(Data(source=str(directory / "rows.jsonl")))
    return evaluate(model, source, out, settings=settings, batch_size=2, **options)


def says(text: str) -> Answer:
    answer = Answer(text)
    answer.token_ids, answer.has_ended = [], True
    return answer


def test_predictions_are_those_of_generate_and_scored(model, directory, tmp_path):
    summary = run(model, directory, tmp_path)
    table = parquet.read_table(tmp_path / "predictions.parquet")
    assert table.schema.names == SCHEMA.names
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == ["r0", "r1", "r2", "r4", "r5", "r6"]
    expected = [model.generate("How red?", str(directory / f"{row['id'][1]}.png"), max_new_tokens=8) for row in rows]
    assert [row["prediction"] for row in rows] == expected
    reward = rewards.score(expected, [{"answer": row["answer"], "key_steps": []} for row in rows])
    np.testing.assert_array_equal([row["correct"] for row in rows], reward.answer_correct)
    assert summary["num_records"] == 6
    assert any("r3" in note for note in summary["data"]["notes"])  # left out when the file was prepared
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert not (tmp_path / "parts").exists()


def test_right_answers_count(model, directory, tmp_path, monkeypatch):
    """A model that answers 0, and says so under the heading."""

    def answer(self, prompts, settings):
        return [[says("### The final answer is:\n**0**")] for _ in prompts]

    monkeypatch.setattr(Pretrained, "answer", answer)
    summary = run(model, directory, tmp_path)
    rows = parquet.read_table(tmp_path / "predictions.parquet").to_pylist()
    assert [row["extracted"] for row in rows] == ["0"] * 6
    assert [row["correct"] for row in rows] == [True, False, False, False, False, False]
    assert [row["reason"] for row in rows][:2] == ["same number", "another value"]
    assert summary["accuracy"] == pytest.approx(1 / 6)
    assert summary["total"] == pytest.approx(np.mean([row["total"] for row in rows]))


def test_an_interrupted_evaluation_goes_on(model, directory, tmp_path, monkeypatch):
    whole = run(model, directory, tmp_path / "whole")
    calls: list[int] = []
    real = Pretrained.answer

    def interrupted(self, prompts, settings):
        calls.append(len(prompts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, prompts, settings)

    monkeypatch.setattr(Pretrained, "answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(model, directory, tmp_path / "out")
    assert run(model, directory, tmp_path / "out") == whole
    assert len(calls) == 4  # two batches, the interrupted one, and that again
    files = [(tmp_path / name / "predictions.parquet").read_bytes() for name in ("whole", "out")]
    assert files[0] == files[1]


def test_predictions_of_other_settings_are_not_mixed(model, directory, tmp_path):
    run(model, directory, tmp_path)
    with pytest.raises(ValueError, match=r"other settings.*\n  max_new_tokens: 8, now 9"):
        run(model, directory, tmp_path, settings=Settings(max_new_tokens=9))


def test_a_file_of_something_else_is_not_taken_for_predictions(model, directory, tmp_path):
    (tmp_path / "predictions.parquet").touch()
    with pytest.raises(ValueError, match="predictions.parquet: is of something else; name another --out"):
        run(model, directory, tmp_path)


def test_samples_and_pass_at_k(model, directory, tmp_path):
    summary = run(model, directory, tmp_path, settings=Settings(max_new_tokens=4, temperature=1.0, n=3))
    rows = parquet.read_table(tmp_path / "predictions.parquet").to_pylist()
    assert [row["sample"] for row in rows] == [0, 1, 2] * 6
    assert list(summary["pass_at_k"]) == ["1", "2"]
    assert summary["pass_at_k"]["1"] == pytest.approx(summary["accuracy"])


def test_pass_at_k_is_the_mean_over_all_choices():
    assert [pass_at_k(4, 1, k) for k in (1, 2, 4)] == pytest.approx([1 / 4, 1 / 2, 1])
    assert pass_at_k(3, 0, 2) == 0
    assert pass_at_k(3, 3, 1) == 1


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "r1vl_jax.evaluate", *arguments], capture_output=True, text=True)


def test_the_command(directory, tmp_path):
    model, data = f"--model={directory / 'model'}", f"--data={directory / 'rows.jsonl'}"
    ended = command(model, data, f"--out={tmp_path}", "--limit=2", "--max_new_tokens=4", "--compile_cache=")
    assert ended.returncode == 0, ended.stderr
    assert "of 2 records" in ended.stdout
    assert len(parquet.read_table(tmp_path / "predictions.parquet")) == 2


@pytest.fixture(scope="module")
def chartqa(directory: Path) -> Path:
    """Two questions of ChartQA, about pictures of `directory`."""
    pictures = [base64.b64encode((directory / f"{number}.png").read_bytes()).decode() for number in (0, 1)]
    rows = [row("chartqa", number, image=picture) for number, picture in enumerate(pictures)]
    return write_tsv(directory / "ChartQA.tsv", rows)


def test_the_command_asks_a_benchmark(model, directory, chartqa, tmp_path):
    (tmp_path / "instruction.txt").write_text("What is the value?\n")
    arguments = [f"--model={directory / 'model'}", "--benchmark=chartqa", f"--data={chartqa}", f"--out={tmp_path}"]
    instruction = f"--instruction_file={tmp_path / 'instruction.txt'}"
    ended = command(*arguments, instruction, "--max_new_tokens=4", "--compile_cache=")
    assert ended.returncode == 0, ended.stderr
    assert "ChartQA, rules 2026-08, 2 rows" in ended.stdout
    rows = parquet.read_table(tmp_path / "predictions.parquet").to_pylist()
    asking = {"max_new_tokens": 4, "instruction": "What is the value?"}
    expected = [model.generate("How much?", str(directory / f"{number}.png"), **asking) for number in (0, 1)]
    assert [row["prediction"] for row in rows] == expected
    assert json.loads((tmp_path / "evaluation.json").read_text())["instruction"] == "What is the value?"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model=absent", "--benchmark=mme"], "looks like a file of ChartQA, --benchmark=chartqa"),
        (["--run=absent", "--benchmark=chartqa", "--data="], "--data: expected the file of the benchmark"),
    ],
    ids=["another benchmark", "run without data"],
)
def test_a_benchmark_that_cannot_be_asked_is_one_sentence(chartqa, tmp_path, arguments, sentence):
    """Before the weights are read."""
    ended = command(f"--data={chartqa}", *arguments, f"--out={tmp_path}")
    assert ended.returncode == 1
    assert len(ended.stderr.strip().splitlines()) == 1
    assert sentence in ended.stderr


def test_flags_that_would_be_ignored_are_refused(monkeypatch):
    given = {name: SimpleNamespace(present=name == "split") for name in ("images", "split")}
    monkeypatch.setattr(r1vl_jax.evaluate.flags, "FLAGS", given)
    with pytest.raises(ValueError, match="--split: not with --benchmark"):
        r1vl_jax.evaluate._refuse(("images", "split"), "not with --benchmark")
    r1vl_jax.evaluate._refuse(("images",), "not with --benchmark")


def test_data_have_a_name_on_the_hub(directory, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, repo_type: str(directory / name))
    (directory / "some" / "one").mkdir(parents=True, exist_ok=True)
    row = {"problem": "How many?", "answer": 3}
    (directory / "some" / "one" / "test.json").write_text(json.dumps([row]))
    split, about = DataSource(Data(source="some/one", layout="problem")).open(tmp_path)
    assert (split[0].id, split[0].source, about["split"]) == ("one/test/0", "one", "test")


def test_absent_data_are_named_before_the_model_is_read(tmp_path):
    ended = command("--model=absent", "--data=no/such.json", f"--out={tmp_path / 'out'}")
    assert ended.returncode == 1
    assert "no/such.json" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_run_without_data_is_named(tmp_path):
    with pytest.raises(ValueError, match="--data: expected a file or directory of records"):
        data_of("")
    with pytest.raises(FileNotFoundError, match="no run here"):
        data_of(str(tmp_path))


def test_the_data_of_a_run_are_those_of_its_settings(tmp_path, monkeypatch):
    """Of the embedded task its own directory; of files those that were prepared, wherever they are."""
    task.write(tmp_path / "run" / "data", difficulty=1, warmup_records=2, train_records=2, eval_records=3, seed=0)
    settings = default()
    settings.workdir, settings.warmup.max_steps, settings.warmup.batch_size = str(tmp_path / "run"), 1, 2
    write_manifest(tmp_path / "run", resolve(settings), data_fingerprint="")
    split, about = DataSource(data_of(str(tmp_path / "run"))).open(tmp_path / "unused")
    assert (len(split), about["split"], about["notes"]) == (3, "test", [])

    (tmp_path / "rows.json").write_text(json.dumps([{"problem": "How many?", "answer": n} for n in range(5)]))
    settings.workdir, settings.data.source = str(tmp_path / "other"), str(tmp_path / "rows.json")
    settings.data.layout, settings.data.test_size, settings.data.directory = "problem", 2.0, str(tmp_path / "prepared")
    config = resolve(settings)
    prepare_sources(config.data, tmp_path / "prepared")
    write_manifest(tmp_path / "other", config, data_fingerprint="")
    monkeypatch.setattr("r1vl_jax.data.sources.prepare._write", lambda *args, **settings: pytest.fail("prepared again"))
    split, about = DataSource(data_of(str(tmp_path / "other"))).open(tmp_path / "unused")
    assert len(split) == 2
    assert "test: 2 of 2 rows kept, 0 dropped" in about["notes"]


def test_data_may_be_a_mixture(directory, tmp_path):
    """Of held-out records each comes once, whatever the weights; a source without the split is named."""
    for name, numbers in {"a": [1, 2], "b": [3]}.items():
        rows = [{"problem": "How many?", "answer": number} for number in numbers]
        (tmp_path / f"{name}_test.json").write_text(json.dumps(rows))
    (tmp_path / "c.json").write_text(json.dumps([{"problem": "How many?", "answer": 4}]))
    text = ", ".join(f"{tmp_path / name}.json:{weight}" for name, weight in {"a_test": 0.9, "b_test": 0.1}.items())
    split, about = DataSource(Data(source=text, layout="problem")).open(tmp_path / "cache")
    assert sorted(record.answer for record in split) == ["1", "2", "3"]
    assert [note for note in about["notes"] if "rows kept" in note] == [
        "test: 2 of 2 rows kept, 0 dropped",
        "test: 1 of 1 rows kept, 0 dropped",
    ]
    source = Data(source=f"{text}, {tmp_path / 'c.json'}:1", layout="problem")
    split, about = DataSource(source).open(tmp_path / "cache")
    assert len(split) == 3
    assert about["notes"][-1].endswith("has no split test: it is left out")


def test_records_without_an_answer_are_dropped_by_name(model, directory, tmp_path):
    turns = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "It is so.\nAnd so on."}]
    rows = [{"id": "open", "messages": turns}, {"id": "closed", "messages": [turns[0], turns[1] | {"content": "5"}]}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    source = DataSource(Data(source=str(tmp_path / "rows.json")))
    summary = evaluate(model, source, tmp_path / "out", settings=SETTINGS)
    assert summary["dropped"] == {"open": "it has no answer"}
    assert summary["num_records"] == 1


def test_other_weights_are_not_mixed(model, directory, tmp_path):
    run(model, directory, tmp_path)
    shutil.copytree(directory / "model", tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    changed = {name: 2 * value for name, value in weights.items()}
    save_file(changed, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"other settings.*\n  weights: "):
        run(dataclasses.replace(model, directory=tmp_path / "model"), directory, tmp_path)
