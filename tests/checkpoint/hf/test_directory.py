"""Damaged and missing files: all faults are listed in one error, and nothing is unpickled."""

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.small import DEFINITION
from safetensors.numpy import save_file

from r1vl_jax import config
from r1vl_jax.checkpoint.hf.directory import read_json, scan_weights, weights_fingerprint
from r1vl_jax.checkpoint.hf.load import load_params
from r1vl_jax.sharding import rules
from r1vl_jax.sharding.mesh import make_mesh


def _load(directory: Path):
    mesh = make_mesh(config.Mesh())
    return load_params(str(directory), DEFINITION, placement=rules.shardings(DEFINITION.abstract_params(), mesh))


def _write_index(directory: Path, weight_map: dict[str, str]):
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_absent_and_damaged_files_and_wrong_tensors_are_one_error(tmp_path: Path):
    names = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(2)]
    files = ["good.safetensors", "absent.safetensors", "truncated.safetensors", "junk.safetensors"]
    save_file({names[0]: np.zeros((3, 3), np.float32)}, tmp_path / files[0])
    save_file({names[1]: np.zeros((48, 32), np.float32)}, tmp_path / files[2])
    whole = (tmp_path / files[2]).read_bytes()
    (tmp_path / files[2]).write_bytes(whole[:-1])
    (tmp_path / files[3]).write_bytes(whole[:8] + b"x" * (len(whole) - 8))
    _write_index(
        tmp_path,
        {
            names[0]: files[0],
            "model.norm.weight": files[1],
            "model.language_model.layers.0.mlp.down_proj.weight": files[1],
            names[1]: files[2],
            "visual.merger.ln_q.bias": files[3],
        },
    )
    with pytest.raises(ValueError, match="the weights are not those of this configuration") as error:
        _load(tmp_path)
    lines = [line.strip() for line in str(error.value).splitlines()[1:]]
    assert lines[0] == "absent file: absent.safetensors, which the index names for 2 tensors"
    assert re.fullmatch(r"truncated or damaged file: junk\.safetensors \(.*\); download it again", lines[1])
    assert re.fullmatch(r"truncated or damaged file: truncated\.safetensors \(.*\); download it again", lines[2])
    assert f"misshapen: {names[0]}: expected [48, 32], got [3, 3]" in lines
    # Tensors of the damaged files are not reported as missing; all others are.
    missing = [line.split()[1] for line in lines if line.startswith("missing")]
    assert "model.layers.1.mlp.down_proj.weight" in missing
    assert not {"model.norm.weight", "model.layers.0.mlp.down_proj.weight", names[1]} & set(missing)


def test_one_damaged_file_is_the_only_fault(tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="truncated or damaged file: model.safetensors") as error:
        _load(tmp_path)
    assert len(str(error.value).splitlines()) == 2


def test_a_tensor_of_integers_is_refused(tmp_path: Path):
    save_file({"model.norm.weight": np.zeros(32, np.int32)}, tmp_path / "model.safetensors")
    expected = "of another type: model.norm.weight: expected one of BF16, F16, F32, F64, got I32"
    with pytest.raises(ValueError, match=re.escape(expected)):
        _load(tmp_path)


class _Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_unopened(tmp_path: Path):
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(_Trap(tmp_path / "sprung")))
    with pytest.raises(FileNotFoundError, match=r"found only \['pytorch_model.bin'\]: pickles, which can run any"):
        _load(tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_an_index_without_a_map_is_refused(tmp_path: Path):
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="index.json: expected an object 'weight_map', got none"):
        scan_weights(tmp_path)


def test_an_index_may_only_name_files_of_its_directory(tmp_path: Path):
    save_file({"a": np.zeros(2, np.float32)}, tmp_path / "good.safetensors")
    files = [3, ["x"], "", "/etc/passwd", "../good.safetensors", "model.bin", None, "good.safetensors"]
    _write_index(tmp_path, {f"tensor{i}": file for i, file in enumerate(files)})
    with pytest.raises(ValueError, match="expected names of safetensors files in this directory; download") as error:
        _load(tmp_path)
    assert str(error.value).splitlines()[1:] == [f"  tensor{i}: {file!r}" for i, file in enumerate(files[:-1])]


def test_a_tensor_that_is_not_in_its_indexed_file_is_absent_not_missing(tmp_path: Path):
    save_file({"visual.merger.ln_q.bias": np.zeros(16, np.float32)}, tmp_path / "good.safetensors")
    name = "model.language_model.norm.weight"
    _write_index(tmp_path, dict.fromkeys(("visual.merger.ln_q.bias", name), "good.safetensors"))
    with pytest.raises(ValueError, match="the weights are not those of this configuration") as error:
        _load(tmp_path)
    lines = [line.strip() for line in str(error.value).splitlines()[1:]]
    assert lines[0] == f"absent tensor: {name}, which the index promises of good.safetensors; download both again"
    assert not any(line.startswith("missing: model.norm.weight") for line in lines)


def test_a_file_that_cannot_be_opened_is_one_of_the_faults(tmp_path: Path):
    (tmp_path / "folder.safetensors").mkdir()
    _write_index(tmp_path, {"a": "folder.safetensors", "b": "absent.safetensors"})
    assert scan_weights(tmp_path).faults[0] == "absent file: absent.safetensors, which the index names for 1 tensors"
    (fault,) = scan_weights(tmp_path).faults[1:]
    assert re.fullmatch(r"unreadable file: folder\.safetensors \(.*\); make it a file that you may read", fault)


def test_a_single_file_beside_an_index_of_others_is_refused(tmp_path: Path):
    tensors = {"a": np.zeros(2, np.float32)}
    save_file(tensors, tmp_path / "model.safetensors")
    _write_index(tmp_path, {"a": "model.safetensors"})
    assert scan_weights(tmp_path).locations.keys() == {"a"}  # the index names the single file
    save_file(tensors, tmp_path / "shard.safetensors")
    _write_index(tmp_path, {"a": "shard.safetensors"})
    expected = r"expected model\.safetensors or model\.safetensors\.index\.json, found both, .*; remove the one"
    with pytest.raises(ValueError, match=expected):
        scan_weights(tmp_path)


def test_broken_json_is_named(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(ValueError, match=r"config\.json: expected JSON, got something else \(Expecting value"):
        read_json(tmp_path, "config.json")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json: expected a JSON object, got list"):
        read_json(tmp_path, "config.json")


def test_the_fingerprint_depends_on_the_weight_files_only(tmp_path: Path):
    values = np.arange(2_000_000, dtype=np.float32)
    for name in ("one", "same", "changed", "renamed"):
        (tmp_path / name).mkdir()
        file = "model.safetensors" if name != "renamed" else "model-00001-of-00001.safetensors"
        save_file({"x": values[::-1].copy() if name == "changed" else values}, tmp_path / name / file)
    (tmp_path / "same" / "README.md").touch()
    fingerprint = {path.name: weights_fingerprint(str(path)) for path in tmp_path.iterdir()}
    assert fingerprint["one"] == fingerprint["same"]
    assert len(set(fingerprint.values())) == 3
    assert weights_fingerprint("") == ""
