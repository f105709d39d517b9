"""The recipes of the published models: the paper's settings, and what they say where weights and data are not there."""

import io
import json
import runpy
from pathlib import Path

import pytest
from helpers.configs import make_config
from PIL import Image

from r1vl_jax.config import Config, resolve
from r1vl_jax.data.records import Record, write_splits
from r1vl_jax.training import components
from r1vl_jax.training.inputs import preflight

CONFIGS = Path(__file__).parents[2] / "configs"
# learning rate of the stage, batch (records or prompts of an update), updates
PAPER = {
    "2b_warmup": (1e-5, 128, 4062),
    "7b_warmup": (5e-6, 128, 4062),
    "2b": (1e-6, 16, 13_125),
    "7b": (1e-6, 16, 13_125),
    "7b_paper": (1e-6, 4, 13_125),
}


def _recipe(name: str) -> Config:
    return resolve(runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]())


@pytest.fixture
def empty_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The working directory, without weights, data or network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.fixture
def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (28, 28)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("name", PAPER)
def test_settings_of_the_paper(name: str):
    config = _recipe(name)
    if name.endswith("warmup"):
        settings = (config.warmup.optim.learning_rate, config.warmup.batch_size, config.warmup.max_steps)
        assert (config.warmup.optim.lr_scheduler_type, config.warmup.optim.warmup_ratio) == ("cosine", 0.03)
        assert config.train.stages == ("warmup",)
    else:
        settings = (config.optim.learning_rate, config.train.prompts_per_update, config.train.max_steps)
        assert (config.optim.lr_scheduler_type, config.optim.weight_decay, config.optim.max_grad_norm) == (
            "linear",
            0,
            1,
        )
        assert (config.sampling.num_generations, config.sampling.temperature) == (4, 1.2)
        assert (config.sampling.max_completion_length, config.loss.beta, config.reward.alpha) == (1024, 0.04, 0.1)
        assert config.train.stages == ("step_grpo",)
        assert config.model.path == f"runs/{name[:2]}_warmup/export"  # what the warm-up's docstring says to write
    assert settings == PAPER[name]
    assert (config.data.min_pixels, config.data.max_pixels) == (3136, 400_000)


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_says_what_to_put_where(name: str, empty_directory: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(components.jax, "default_backend", lambda: pytest.fail("a device was touched"))
    config = _recipe(name)
    with pytest.raises(FileNotFoundError, match="the run lacks what its configuration names") as error:
        components.build_components(config)
    weights, *data = str(error.value).splitlines()[1:]
    assert f"config.model.path='{config.model.path}'" in weights
    assert f"into the directory {config.model.path} (config.json, model.safetensors or" in weights
    assert f"hf_export --run=WORKDIR --out={config.model.path}" in weights
    (line,) = data
    source = "data/mulberry" if name.endswith("warmup") else "data/r1vl"
    assert f"config.data.source='{source}' ({source}: no such file or directory, and the hub does not give it" in line
    assert "put a data set there, as a JSON, JSONL or Parquet file or a directory of such" in line


def test_an_absent_adapter_is_named_with_the_command_that_makes_one(empty_directory: Path):
    changes = {"model__path": "base", "model__adapter_path": "runs/a/b", "model__lora_r": 4}
    with pytest.raises(FileNotFoundError) as error:
        preflight(resolve(make_config(**changes)))
    _, _, adapter = str(error.value).splitlines()
    assert "config.model.adapter_path='runs/a/b' (" in adapter
    assert "hf_export --run=WORKDIR --out=runs/a/b --adapter" in adapter


def test_what_is_there_is_not_asked_for(empty_directory: Path, picture: bytes):
    config = _recipe("2b")
    model = Path(config.model.path)
    model.mkdir(parents=True)
    (model / "config.json").touch()
    (model / "model.safetensors.index.json").touch()
    (model / "tokenizer.json").touch()
    record = Record("a", (picture,), "<image>", "", "1", (), "", "", "")
    write_splits(config.data.source, {"train": [record]}, settings={})
    with pytest.raises(FileNotFoundError) as error:
        preflight(config)
    (weights,) = str(error.value).splitlines()[1:]
    assert weights.endswith(
        "has no tokenizer_config.json, no preprocessor_config.json or image_processor in processor_config.json; put a"
        " whole model there"
    )


def test_an_absent_split_is_named_and_a_test_split_is_not_needed(empty_directory: Path, picture: bytes):
    config = resolve(make_config(train__stages=("step_grpo",), data__source="records", eval__steps=1))
    record = Record("a", (picture,), "<image>", "", "1", (), "", "", "")
    write_splits("records", {"train": [record]}, settings={})
    with pytest.raises(FileNotFoundError, match=r"records: no split 'validation', only \['train'\]; set data"):
        preflight(config)
    inputs = preflight(resolve(make_config(train__stages=("step_grpo",), data__source="records")))
    assert set(inputs.splits) == {"train", "warmup"}
    assert "there is no split test: no evaluation before, between and after the stages" in inputs.summary[1]


def test_files_are_prepared_once_and_by_content(empty_directory: Path, picture: bytes, capsys):
    """A JSON file: prepared in the workdir, found there again, and prepared anew when it changes."""
    Path("a.png").write_bytes(picture)
    rows = [{"problem": f"What is {number}?", "image": "a.png", "answer": number} for number in range(10)]
    Path("rows.json").write_text(json.dumps(rows))
    changes = {"data__source": "rows.json", "data__test_size": 0.2, "train__stages": ("step_grpo",)}
    config = resolve(make_config(**changes, observe__progress=False))
    inputs = preflight(config)
    assert inputs.data_directories[0].parent == Path(config.workdir) / "data"
    assert {name: len(split) for name, split in inputs.splits.items()} == {"train": 8, "warmup": 8, "test": 2}
    assert inputs.summary[:2] == ("train: layout thinklite", "test: 2 of 2 rows kept, 0 dropped")
    written = {path: path.stat().st_mtime_ns for path in inputs.data_directories[0].glob("*array_record*")}
    again = preflight(config)
    assert again.summary == inputs.summary
    assert {path: path.stat().st_mtime_ns for path in again.data_directories[0].glob("*array_record*")} == written
    Path("rows.json").write_text(json.dumps(rows[:9]))
    assert preflight(config).data_directories[0] != inputs.data_directories[0]


def test_several_sources_are_mixed(empty_directory: Path, picture: bytes):
    """A file and a directory of records, as the text of a tuple: training by weights, evaluation of all once."""
    Path("a.png").write_bytes(picture)
    rows = [{"problem": f"What is {number}?", "image": "a.png", "answer": number} for number in range(4)]
    Path("rows.json").write_text(json.dumps(rows))
    made = [Record.make("What?", images=[picture], answer=str(number), source="made") for number in range(12)]
    write_splits("records", {"train": made, "test": made[:3]}, settings={})
    changes = {"data__source": "('rows.json:0.5', 'records:0.5')", "data__test_size": 1.0, "observe__progress": False}
    inputs = preflight(resolve(make_config(**changes, train__stages=("step_grpo",))))
    train = [record.source for record in inputs.splits["train"]]
    assert (train.count("rows"), train.count("made")) == (12, 12)
    assert sorted(record.source for record in inputs.splits["test"]) == ["made", "made", "made", "rows"]
    assert len(inputs.data_directories) == 2
    assert len(inputs.fingerprints()["data_fingerprint"]) == 64


def test_settings_of_files_are_refused_for_a_directory_of_records(empty_directory: Path, picture: bytes):
    record = Record("a", (picture,), "<image>", "", "1", (), "", "", "")
    write_splits("records", {"train": [record]}, settings={})
    with pytest.raises(ValueError, match="a directory of records, for which data.test_size=0.5 have no effect"):
        preflight(resolve(make_config(data__source="records", data__test_size=0.5)))
