"""Loading holds no second copy of the weights: peak memory grows by the size of the parameters alone."""

import dataclasses
from pathlib import Path

from helpers import real_shapes

from r1vl_jax.checkpoint.hf.config import to_hf
from r1vl_jax.models.qwen2_vl.config import PRESETS

SHALLOW, DEEP = 2, 18


def _peak_gib(directory: Path, num_hidden_layers: int) -> tuple[float, int]:
    """Peak memory of a process that loads a model, and the number of the model's parameters."""
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "vocab_size": 1000, "mrope_section": (16, 24, 24)}
    config = dataclasses.replace(PRESETS["tiny"], **sizes, num_hidden_layers=num_hidden_layers)
    directory.mkdir()
    num_parameters = real_shapes.write_random_model(directory, to_hf(config))
    return real_shapes.measure("ours", directory, "float32")["peak_load_gib"], num_parameters


def test_no_second_copy(tmp_path: Path):
    shallow_gib, shallow_parameters = _peak_gib(tmp_path / "shallow", SHALLOW)
    deep_gib, deep_parameters = _peak_gib(tmp_path / "deep", DEEP)
    placed_gib = (deep_parameters - shallow_parameters) * 4 / 2**30
    assert placed_gib > 0.2
    assert 0.9 * placed_gib < deep_gib - shallow_gib < 1.1 * placed_gib
