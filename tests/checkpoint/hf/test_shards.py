"""Writing tensors: what a file of weights must not hold is refused by name."""

import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from r1vl_jax.checkpoint.hf.shards import Entry, write_shards


def _write(directory: Path, tensors: dict[str, np.ndarray], dtype: str):
    entries = [Entry(name, array.shape) for name, array in tensors.items()]
    write_shards(directory, entries, iter(tensors.values()), dtype=dtype, max_shard_size=8)


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
