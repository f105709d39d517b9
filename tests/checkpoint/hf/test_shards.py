"""Sharded safetensors: files and index, and values that must not be written."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from r1vl_jax.checkpoint.hf.shards import TensorSpec, write_shards


def _write(directory: Path, tensors: dict[str, np.ndarray], dtype: str):
    specs = [TensorSpec(name, array.shape) for name, array in tensors.items()]
    write_shards(directory, specs, iter(tensors.values()), dtype=dtype, max_shard_size=8)


def test_shards_are_bounded_and_indexed(tmp_path: Path):
    """8 bytes a file; a larger tensor, wherever it stands, has a file to itself."""
    sizes = {"a": 1, "large": 3, "b": 1, "c": 1, "d": 2}
    tensors = {name: np.full(size, number, np.float32) for number, (name, size) in enumerate(sizes.items())}
    _write(tmp_path, tensors, "float32")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 32}
    files: dict[str, set[str]] = {}
    for name, file in index["weight_map"].items():
        files.setdefault(file, set()).add(name)
    assert sorted(map(sorted, files.values())) == [["a", "b"], ["c"], ["d"], ["large"]]
    assert sorted(files) == [f"model-0000{number}-of-00004.safetensors" for number in range(1, 5)]
    for file, names in files.items():
        loaded = load_file(tmp_path / file)
        assert loaded.keys() == names
        for name in names:
            np.testing.assert_array_equal(loaded[name], tensors[name])


def test_one_file_needs_no_index(tmp_path: Path):
    _write(tmp_path, {"a": np.zeros(1, np.float32), "b": np.ones(1, np.float32)}, "float32")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_all_values_that_are_not_finite_or_too_large_are_listed(tmp_path: Path):
    tensors = {
        "fine": np.float32([65504, 1e-9]),
        "large": np.float32([-1e5, 1]),
        "broken": np.float32([np.nan, 1e5, -np.inf]),
    }
    with pytest.raises(ValueError, match="these weights cannot be written") as error:
        _write(tmp_path, tensors, "float16")
    assert str(error.value).splitlines()[1:] == [
        "  large: expected at most 65504, the limit of float16, got 100000; write it as float32",
        "  broken: expected finite values, got 2 NaN or infinite; take a checkpoint before them",
    ]


def test_a_value_that_bfloat16_rounds_to_infinity_is_refused(tmp_path: Path):
    expected = "x: expected at most 3.38953e+38, the limit of bfloat16, got 3.4e+38; write it as float32"
    with pytest.raises(ValueError, match=re.escape(expected)):
        _write(tmp_path, {"x": np.float32([3.4e38])}, "bfloat16")


def test_the_largest_values_are_written(tmp_path: Path):
    _write(tmp_path, {"x": np.float32([65504, -65504])}, "float16")
    np.testing.assert_array_equal(load_file(tmp_path / "model.safetensors")["x"], np.float16([65504, -65504]))
