"""The true 2B sizes once, with random weights: memory while loading, and logits beside transformers'. Minutes."""

import json
from pathlib import Path

import numpy as np
import pytest
import real_shapes

from r1vl_jax.checkpoint.hf_config import to_hf
from r1vl_jax.models.qwen2_vl.config import PRESETS

pytestmark = pytest.mark.slow

NUM_PARAMETERS = 2_208_985_600
LARGEST_TENSOR_GIB = 151_936 * 1536 * 2 / 2**30
BYTES = {"bfloat16": 2, "float32": 4}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory):
    directory = tmp_path_factory.mktemp("2b")
    real_shapes.write_random_model(directory, to_hf(PRESETS["2b"]))
    yield directory
    for file in directory.glob("*.safetensors"):
        file.unlink()


def test_memory_and_logits(directory: Path, tmp_path: Path):
    figures, logits = {}, {}
    for dtype in ("bfloat16", "float32"):
        for who in ("ours", "transformers"):
            file = tmp_path / f"{who}-{dtype}.npy"
            figures[who, dtype] = real_shapes.measure(who, directory, dtype, file)
            logits[who, dtype] = np.load(file)
            print(f"\n{who:12} {dtype:8}", json.dumps({k: round(v, 2) for k, v in figures[who, dtype].items()}))
        placed_gib = NUM_PARAMETERS * BYTES[dtype] / 2**30
        assert figures["ours", dtype]["peak_load_gib"] < placed_gib + LARGEST_TENSOR_GIB + 1

    exact = logits["transformers", "float32"]
    difference = {key: np.abs(value - exact) / exact.std() for key, value in logits.items()}
    for (who, dtype), values in difference.items():
        print(f"{who:12} {dtype:8} from float32, in spreads: mean {values.mean():.1e}, max {values.max():.1e}")
    assert difference["ours", "float32"].max() < 1e-3
    # Two roundings of the same numbers: neither is nearer to the truth by much.
    assert difference["ours", "bfloat16"].mean() < 1.25 * difference["transformers", "bfloat16"].mean()
