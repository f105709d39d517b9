"""Export of a run: byte-identical to what was loaded, atomic, of the right stage, and with the run's instruction."""

import errno
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers.twins import ARCHITECTURES
from safetensors import safe_open
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLImageProcessorPil

from r1vl_jax import config
from r1vl_jax.arrays import Params
from r1vl_jax.checkpoint.hf import export
from r1vl_jax.checkpoint.hf.config import to_hf
from r1vl_jax.checkpoint.hf.directory import weights_fingerprint
from r1vl_jax.checkpoint.hf.export import export_run
from r1vl_jax.checkpoint.hf.files import write_files
from r1vl_jax.checkpoint.hf.load import load_params
from r1vl_jax.checkpoint.hf.names import published_name
from r1vl_jax.checkpoint.hf_export import parse_size
from r1vl_jax.checkpoint.manager import Checkpoints
from r1vl_jax.checkpoint.model_config import model_config
from r1vl_jax.data.tokenizer import load_tokenizer, train_tokenizer
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.observe import write_manifest
from r1vl_jax.sharding import rules
from r1vl_jax.sharding.mesh import make_mesh

OTHER_FILES = {"LICENSE": "a licence", "chat_template.jinja": "{{ messages }}", "README.md": "# A model"}


@pytest.fixture(scope="module")
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model written by transformers in bfloat16, with all files beside the weights, and pickled weights.

    Of the tiny Qwen2-VL preset, unless a test names another.
    """
    directory = tmp_path_factory.mktemp("source")
    tokenizer = train_tokenizer(["some text to learn from"], vocab_size=300)
    sizes = model_config(config.Model(preset=getattr(request, "param", "tiny")), tokenizer)
    family = ARCHITECTURES[to_hf(sizes)["model_type"]]
    torch.manual_seed(0)
    torch_model = family.model(family.config(**to_hf(sizes))).bfloat16()
    torch_model.save_pretrained(directory)
    saved_config = (directory / "config.json").read_bytes()
    # The limits are the run's, as its end tokens are.
    limits = {"min_pixels": 784, "max_pixels": 400_000}
    write_files(directory, sizes, tokenizer, eos_token_ids=[1, 2], **limits, dtype="bfloat16")
    (directory / "config.json").write_bytes(saved_config)  # transformers' own
    for name, content in OTHER_FILES.items():
        (directory / name).write_text(content)
    (directory / "pytorch_model.bin").write_bytes(b"the weights again")
    return directory


@pytest.fixture(scope="module")
def run(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run that started from it and saved a checkpoint of the unchanged parameters."""
    workdir = tmp_path_factory.mktemp("run")
    _write_manifest(workdir, source)
    _save(workdir, "warmup", 3, _params(source))
    return workdir


def _params(source: Path) -> Params:
    definition = Definition(model_config(config.Model(path=str(source)), load_tokenizer(source)))
    mesh = make_mesh(config.Mesh(), jax.devices()[:1])
    placement = rules.shardings(definition.abstract_params(), mesh)
    return load_params(str(source), definition, placement=placement)


def _save(workdir: Path, stage: str, step: int, params: Params, *, keep: int = 1) -> None:
    with Checkpoints(workdir / "checkpoints" / stage, keep=keep) as checkpoints:
        checkpoints.save(step, {"params": params, "opt_state": {"mu": jax.tree.map(jnp.zeros_like, params)}}, {})


def _write_manifest(workdir: Path, source: Path, **changes) -> None:
    fingerprint = weights_fingerprint(str(source))
    settings = _settings(workdir, source, changes)
    write_manifest(workdir, settings, data_fingerprint="", weights_fingerprint=fingerprint)


def _settings(workdir: Path, source: Path, changes: Mapping = {}) -> config.Config:  # noqa: B006 - not modified
    editable = config.default()
    editable.workdir, editable.model.path, editable.warmup.max_steps = str(workdir), str(source), 3
    editable.update_from_flattened_dict(changes)
    return config.resolve(editable)


def _tensors(directory: Path) -> dict[str, tuple[str, bytes]]:
    """Dtype and bytes of every tensor by its published name."""
    tensors = {}
    for file in directory.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as reader:
            for name in reader.keys():  # noqa: SIM118 - the reader is no dictionary
                array = reader.get_tensor(name)
                tensors[published_name(name)] = (str(array.dtype), array.tobytes())
    return tensors


def _contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("source", ["tiny", "2.5-tiny"], indirect=True)
def test_an_export_has_the_bytes_of_what_was_loaded(source: Path, run: Path, tmp_path: Path):
    export_run(run, tmp_path / "out", max_shard_size=200_000)
    expected, got = _tensors(source), _tensors(tmp_path / "out")
    assert got == expected
    assert {dtype for dtype, _ in got.values()} == {"bfloat16"}
    names = {path.name for path in (tmp_path / "out").iterdir()}
    shards = {name for name in names if name.endswith(".safetensors")}
    assert len(shards) > 2
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == shards
    assert index["metadata"]["total_size"] == sum(len(data) for _, data in expected.values())
    others = names - shards - {"model.safetensors.index.json"}
    assert others >= {"config.json", "generation_config.json", "tokenizer.json", "preprocessor_config.json"}
    assert others >= OTHER_FILES.keys()
    assert others == {path.name for path in source.iterdir()} - {"model.safetensors", "pytorch_model.bin"}
    for name in others:
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()


def test_transformers_opens_it_in_float32(source: Path, run: Path, tmp_path: Path):
    export_run(run, tmp_path / "out", dtype="float32")
    opened = Qwen2VLForConditionalGeneration.from_pretrained(tmp_path / "out")
    original = Qwen2VLForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
    assert opened.dtype == torch.float32  # config.json has the dtype of the export, not of the source
    for (name, left), (_, right) in zip(opened.state_dict().items(), original.state_dict().items(), strict=True):
        assert torch.equal(left, right), name


def test_a_full_disk_leaves_the_previous_export_unchanged(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "out"
    export_run(run, out)
    before = _contents(out)

    def run_out_of_room(directory: Path, *args, **kwargs):
        (directory / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export, "write_shards", run_out_of_room)
    text = "no space left .*No space left on device, .* free.; the previous export is unchanged"
    with pytest.raises(OSError, match=text):
        export_run(run, out)
    assert _contents(out) == before
    with pytest.raises(OSError, match="no space left .*; nothing was written; free some, or give --out another"):
        export_run(run, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    monkeypatch.undo()
    export_run(run, out, max_shard_size=200_000)  # a complete export replaces it
    assert not (out / "model.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_directory_that_is_no_export_is_not_replaced(source: Path, run: Path, tmp_path: Path):
    (tmp_path / "notes.txt").touch()
    before = _contents(source)
    with pytest.raises(FileExistsError, match="the directory is not empty and no export of r1vl_jax; give --out"):
        export_run(run, tmp_path)
    assert _contents(tmp_path) == {"notes.txt": b""}
    with pytest.raises(FileExistsError, match="the run started from this model and needs it as it is"):
        export_run(run, source)
    assert _contents(source) == before


def test_a_run_without_a_checkpoint_is_refused(source: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no run here \(expected manifest.json\); give --run the workdir"):
        export_run(tmp_path, tmp_path / "out")
    _write_manifest(tmp_path / "run", source)
    for stage, missing in (("", "warmup or step_grpo"), ("warmup", "warmup"), ("vision_pretrain", "vision_pretrain")):
        text = f"no checkpoint of {missing} yet (the run's stages: warmup, step_grpo); train first"
        with pytest.raises(FileNotFoundError, match=re.escape(text)):
            export_run(tmp_path / "run", tmp_path / "out", stage=stage)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.fixture
def begun(source: Path, tmp_path: Path) -> Path:
    """The workdir of a run whose StepGRPO has begun, and saved nothing yet."""
    workdir = tmp_path / "begun"
    _write_manifest(workdir, source)
    _save(workdir, "warmup", 3, _params(source))
    with Checkpoints(workdir / "checkpoints" / "step_grpo", keep=1) as checkpoints:
        assert checkpoints.latest_step() is None
    assert (workdir / "checkpoints" / "step_grpo").is_dir()
    return workdir


def test_the_last_stage_with_a_saved_step_is_exported(source: Path, begun: Path, tmp_path: Path):
    exported = export_run(begun, tmp_path / "out")
    assert (exported.stage, exported.step) == ("warmup", 3)
    assert _tensors(tmp_path / "out") == _tensors(source)
    _save(begun, "step_grpo", 5, jax.tree.map(lambda x: 2 * x, _params(source)))
    exported = export_run(begun, tmp_path / "out")
    assert (exported.stage, exported.step) == ("step_grpo", 5)
    assert _tensors(tmp_path / "out") != _tensors(source)
    exported = export_run(begun, tmp_path / "out", stage="warmup")
    assert (exported.stage, exported.step) == ("warmup", 3)
    assert _tensors(tmp_path / "out") == _tensors(source)


def test_a_step_is_exported_if_it_was_kept(source: Path, begun: Path, tmp_path: Path):
    for step in (9, 10):
        _save(begun, "warmup", step, jax.tree.map(lambda x, step=step: step * x, _params(source)), keep=3)
    exported = export_run(begun, tmp_path / "out", step=3)
    assert (exported.stage, exported.step) == ("warmup", 3)
    assert _tensors(tmp_path / "out") == _tensors(source)
    assert export_run(begun, tmp_path / "out").step == 10
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 4, only: warmup 3, 9, 10 \(train.save_total"):
        export_run(begun, tmp_path / "out", step=4)


def test_a_named_stage_without_a_saved_step_is_refused(begun: Path, tmp_path: Path):
    with pytest.raises(
        FileNotFoundError, match=r"no checkpoint of step_grpo yet \(the run's stages: warmup, step_grpo"
    ):
        export_run(begun, tmp_path / "out", stage="step_grpo")
    assert not (tmp_path / "out").exists()


def _command(*arguments: str) -> subprocess.CompletedProcess:
    program = [sys.executable, "-m", "r1vl_jax.checkpoint.hf_export", *arguments]
    return subprocess.run(program, capture_output=True, text=True, check=False)


def test_the_command_exports_and_says_what(begun: Path, tmp_path: Path):
    result = _command(f"--run={begun}", f"--out={tmp_path / 'out'}")
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"exported step 3 of warmup to {tmp_path / 'out'}\n"
    assert "checkpoint_manager" not in result.stderr  # a log of Orbax


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--stage=step_grpo"], "no checkpoint of step_grpo yet"),
        (["--max_shard_size=5"], "max_shard_size='5': expected a number of KB, MB or GB"),
        (["--adapter"], "there is no adapter to save: model.lora_r is 0"),
    ],
)
def test_the_command_refuses_in_a_sentence(begun: Path, tmp_path: Path, arguments: list[str], reason: str):
    result = _command(f"--run={begun}", f"--out={tmp_path / 'out'}", *arguments)
    assert result.returncode == 1
    assert reason in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_export_has_the_instruction_of_the_run(source: Path, tmp_path: Path):
    (tmp_path / "how.txt").write_text("Think step by step,\nthen answer.\n")
    for name, change in {
        "text": {"data.instruction": " Think. "},
        "file": {"data.instruction_file": str(tmp_path / "how.txt")},
    }.items():
        _write_manifest(tmp_path / name, source, **change)
        _save(tmp_path / name, "warmup", 3, _params(source))
    export_run(tmp_path / "text", tmp_path / "out")
    assert (tmp_path / "out" / "instruction.txt").read_text() == "Think.\n"
    export_run(tmp_path / "file", tmp_path / "out")
    assert (tmp_path / "out" / "instruction.txt").read_text() == "Think step by step,\nthen answer.\n"


def test_an_export_has_the_pixel_limits_of_the_run(source: Path, tmp_path: Path):
    _write_manifest(tmp_path / "run", source, **{"data.min_pixels": 3136, "data.max_pixels": 50_000})
    _save(tmp_path / "run", "warmup", 3, _params(source))
    export_run(tmp_path / "run", tmp_path / "out")
    size = Qwen2VLImageProcessorPil.from_pretrained(tmp_path / "out").size
    assert (size["shortest_edge"], size["longest_edge"]) == (3136, 50_000)
    assert json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())["max_pixels"] == 50_000


def test_an_export_does_not_keep_the_instruction_of_the_base_model(source: Path, run: Path, tmp_path: Path):
    (source / "instruction.txt").write_text("Of an earlier run.")
    try:
        export_run(run, tmp_path / "out")
    finally:
        (source / "instruction.txt").unlink()
    assert not (tmp_path / "out" / "instruction.txt").exists()


def test_shard_sizes_are_parsed_as_transformers_does():
    assert parse_size("5GB") == 5_000_000_000
    assert parse_size("20MB") == 20_000_000
    with pytest.raises(ValueError, match="max_shard_size='5': expected a number of KB, MB or GB, such as 5GB"):
        parse_size("5")


def test_rounding_is_to_the_nearest_bfloat16(tmp_path: Path):
    """Against torch, on numbers that bfloat16 cannot represent, including ties to even."""
    values = np.float32([1.00390625, 1.01171875, -3.1415927, 1e-40, 3e38])
    spec = export.TensorSpec("x", values.shape)
    export.write_shards(tmp_path, [spec], iter([values]), dtype="bfloat16", max_shard_size=10)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as reader:
        assert torch.equal(reader.get_tensor("x"), torch.from_numpy(values).bfloat16())


def test_a_run_whose_weights_were_replaced_is_not_exported(source: Path, tmp_path: Path):
    """An adapter, or the trained part of a model, is only valid with the weights that it was trained on."""
    settings = _settings(tmp_path / "run", source)
    write_manifest(tmp_path / "run", settings, data_fingerprint="", weights_fingerprint="of others")
    with pytest.raises(ValueError, match="the weights changed since this run began"):
        export_run(tmp_path / "run", tmp_path / "out")


def test_a_run_of_another_version_is_refused(source: Path, tmp_path: Path):
    _write_manifest(tmp_path / "run", source)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    del manifest["configuration"]["data"]["instruction"]
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    match = (
        "another version of r1vl_jax wrote the manifest, which has no setting 'instruction'; export the run with that"
    )
    with pytest.raises(ValueError, match=match):
        export_run(tmp_path / "run", tmp_path / "out")
