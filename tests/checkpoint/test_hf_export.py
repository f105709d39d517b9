"""Export of a run: what was imported comes out byte for byte, and an export that fails leaves the one before it."""

import errno
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers.twins import ARCHITECTURES
from safetensors import safe_open
from transformers import Qwen2VLForConditionalGeneration

from r1vl_jax import config
from r1vl_jax.checkpoint.hf import export
from r1vl_jax.checkpoint.hf.config import to_hf
from r1vl_jax.checkpoint.hf.directory import weights_fingerprint
from r1vl_jax.checkpoint.hf.export import export_run
from r1vl_jax.checkpoint.hf.files import write_files
from r1vl_jax.checkpoint.hf.load import load_params
from r1vl_jax.checkpoint.hf.names import published_name
from r1vl_jax.checkpoint.hf_export import num_bytes
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
    """A model written by transformers in bfloat16, with all that lies beside weights, and some that should not.

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
    write_files(directory, sizes, tokenizer, eos_token_ids=[1, 2], min_pixels=784, max_pixels=7840, dtype="bfloat16")
    (directory / "config.json").write_bytes(saved_config)  # transformers' own
    for name, content in OTHER_FILES.items():
        (directory / name).write_text(content)
    (directory / "pytorch_model.bin").write_bytes(b"the weights again")
    return directory


@pytest.fixture(scope="module")
def run(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run that started from it and saved a checkpoint without having changed anything."""
    workdir = tmp_path_factory.mktemp("run")
    fingerprint = weights_fingerprint(str(source))
    write_manifest(workdir, _settings(workdir, source), data_fingerprint="", weights_fingerprint=fingerprint)
    definition = Definition(model_config(config.Model(path=str(source)), load_tokenizer(source)))
    mesh = make_mesh(config.Mesh(), jax.devices()[:1])
    placement = rules.shardings(definition.abstract_params(), mesh)
    params = load_params(str(source), definition, placement=placement)
    with Checkpoints(workdir / "checkpoints" / "warmup", keep=1) as checkpoints:
        checkpoints.save(3, {"params": params, "opt_state": {"mu": jax.tree.map(jnp.zeros_like, params)}}, {})
    return workdir


def _settings(workdir: Path, source: Path) -> config.Config:
    editable = config.default()
    editable.workdir, editable.model.path, editable.warmup.max_steps = str(workdir), str(source), 3
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
def test_import_then_export_gives_the_same_bytes(source: Path, run: Path, tmp_path: Path):
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
    assert opened.dtype == torch.float32  # config.json tells the dtype of this export, not of the source
    for (name, left), (_, right) in zip(opened.state_dict().items(), original.state_dict().items(), strict=True):
        assert torch.equal(left, right), name


def test_without_room_the_old_export_stays_whole(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "out"
    export_run(run, out)
    before = _contents(out)

    def run_out_of_room(directory: Path, *args, **kwargs):
        (directory / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export, "write_shards", run_out_of_room)
    text = "no room .*No space left on device, .* free.; the export that was there is untouched"
    with pytest.raises(OSError, match=text):
        export_run(run, out)
    assert _contents(out) == before
    with pytest.raises(OSError, match="no room .*; nothing was left behind; make room, or name another"):
        export_run(run, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    monkeypatch.undo()
    export_run(run, out, max_shard_size=200_000)  # a whole one does replace it
    assert not (out / "model.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_no_export_is_not_replaced(source: Path, run: Path, tmp_path: Path):
    (tmp_path / "notes.txt").touch()
    before = _contents(source)
    with pytest.raises(FileExistsError, match="there is something that is no export of ours; give --out another"):
        export_run(run, tmp_path)
    assert _contents(tmp_path) == {"notes.txt": b""}
    with pytest.raises(FileExistsError, match="the run started from this model and needs it as it is"):
        export_run(run, source)
    assert _contents(source) == before


def test_a_run_without_a_checkpoint_is_refused(source: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no run here \(expected manifest.json\); give --run the workdir"):
        export_run(tmp_path, tmp_path / "out")
    fingerprint = weights_fingerprint(str(source))
    settings = _settings(tmp_path / "run", source)
    write_manifest(tmp_path / "run", settings, data_fingerprint="", weights_fingerprint=fingerprint)
    for stage, missing in (("", "warmup or step_grpo"), ("warmup", "warmup"), ("vision_pretrain", "vision_pretrain")):
        text = f"no checkpoint of {missing} yet (the run's stages: warmup, step_grpo); train first"
        with pytest.raises(FileNotFoundError, match=re.escape(text)):
            export_run(tmp_path / "run", tmp_path / "out", stage=stage)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_sizes_of_files_are_read_as_transformers_reads_them():
    assert num_bytes("5GB") == 5_000_000_000
    assert num_bytes("20MB") == 20_000_000
    with pytest.raises(ValueError, match="max_shard_size='5': expected a number of KB, MB or GB, such as 5GB"):
        num_bytes("5")


def test_rounding_is_to_the_nearest_bfloat16(tmp_path: Path):
    """Against torch, on numbers that bfloat16 cannot hold, ties to even included."""
    values = np.float32([1.00390625, 1.01171875, -3.1415927, 1e-40, 3e38])
    entry = export.Entry("x", values.shape)
    export.write_shards(tmp_path, [entry], iter([values]), dtype="bfloat16", max_shard_size=10)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as reader:
        assert torch.equal(reader.get_tensor("x"), torch.from_numpy(values).bfloat16())


def test_a_run_whose_weights_were_replaced_is_not_exported(source: Path, tmp_path: Path):
    """An adapter, or what was not frozen, belongs to these weights alone."""
    settings = _settings(tmp_path / "run", source)
    write_manifest(tmp_path / "run", settings, data_fingerprint="", weights_fingerprint="of others")
    with pytest.raises(ValueError, match="the weights changed since this run began"):
        export_run(tmp_path / "run", tmp_path / "out")
