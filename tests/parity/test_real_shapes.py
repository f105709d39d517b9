"""Qwen2-VL-2B's sizes with random weights: memory while loading, and logits against transformers. Takes minutes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import real_shapes

from r1vl_jax.checkpoint.hf.config import to_hf
from r1vl_jax.models.qwen2_vl.config import PRESETS

pytestmark = pytest.mark.slow

NUM_PARAMETERS = 2_208_985_600
LARGEST_TENSOR_GIB = 151_936 * 1536 * 2 / 2**30
REQUIRED_GIB = 16
BYTES = {"bfloat16": 2, "float32": 4}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory):
    if (free_gib := _free_gib()) < REQUIRED_GIB:
        pytest.skip(f"needs {REQUIRED_GIB} GiB of free memory, has {free_gib:.1f}")
    directory = tmp_path_factory.mktemp("2b")
    real_shapes.write_random_model(directory, to_hf(PRESETS["2b"]))
    yield directory
    for file in directory.glob("*.safetensors"):
        file.unlink()


def _free_gib() -> float:
    available = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    assert available, "no MemAvailable in /proc/meminfo"
    return int(available.group(1)) / 2**20


@pytest.mark.parametrize("dtype", BYTES)
def test_memory_while_loading(directory: Path, dtype: str):
    measurements = real_shapes.measure("ours", directory, dtype)
    print("\nloading", dtype, json.dumps(measurements))
    params_gib = NUM_PARAMETERS * BYTES[dtype] / 2**30
    assert params_gib < measurements["peak_load_gib"] < params_gib + LARGEST_TENSOR_GIB + 1


def test_logits(directory: Path, tmp_path: Path):
    logits = {}
    for dtype in BYTES:
        for implementation in ("ours", "transformers"):
            file = tmp_path / f"{implementation}-{dtype}.npy"
            measurements = real_shapes.measure(implementation, directory, dtype, file)
            logits[implementation, dtype] = np.load(file)
            rounded = {name: round(value, 2) for name, value in measurements.items()}
            print(f"\n{implementation:12} {dtype:8}", json.dumps(rounded))

    exact = logits["transformers", "float32"]
    difference = {key: np.abs(value - exact) / exact.std() for key, value in logits.items()}
    for (implementation, dtype), values in difference.items():
        print(f"{implementation:12} {dtype:8} error / std of logits: mean {values.mean():.1e}, max {values.max():.1e}")
    assert difference["ours", "float32"].max() < 1e-3
    # Two implementations' rounding errors of the same computation are about equally large.
    assert difference["ours", "bfloat16"].mean() < 1.25 * difference["transformers", "bfloat16"].mean()
