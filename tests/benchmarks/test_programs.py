"""The benchmark of a recipe's programs: they run in full batches, and the figures follow from what was measured."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import programs
from benchmarks.peers.ceilings import Machine
from r1vl_jax.arrays import PromptBatch
from r1vl_jax.compiling import shapes
from r1vl_jax.config import Config, Data, Mesh, Model, Sampling, Train
from r1vl_jax.models.presets import preset
from r1vl_jax.sharding import make_mesh

ROOT = Path(__file__).parents[2]
CONFIG = Config(
    workdir="unused",
    model=Model(preset="tiny"),
    data=Data(max_prompt_length=64, max_pixels=8 * 28 * 28, vision_shards=2, patch_bucket=32),
    sampling=Sampling(num_generations=2, max_completion_length=16),
    train=Train(prompts_per_update=4, stages=("step_grpo",)),
)


@pytest.fixture(scope="module")
def measured() -> dict[str, programs.Measured]:
    results = programs.measure(CONFIG, ["prefill", "decode", "reference scores", "update"], repeats=2)
    return {result.name: result for result in results if isinstance(result, programs.Measured)}


def test_every_program_runs_as_often_as_is_asked(measured):
    assert list(measured) == ["prefill", "decode", "reference scores", "update"]
    for each in measured.values():
        assert len(each.seconds) == 2
        assert each.operations > 0
        assert each.memory_gib > 0
    assert measured["update"].operations > 2 * measured["reference scores"].operations


def test_decoding_must_read_its_weights_for_every_token(measured):
    sizes = preset("tiny")
    layer = sizes.hidden_size * (2 * sizes.hidden_size + 2 * 2 * sizes.head_dim + 3 * sizes.intermediate_size)
    weights = 4 * (sizes.num_hidden_layers * layer + sizes.hidden_size * sizes.vocab_size)
    said = 4 * (4 * 64 + 8 * 7.5) / 8 * 2 * 2 * sizes.head_dim * sizes.num_hidden_layers  # of each of eight devices
    assert sizes.num_key_value_heads == 2
    assert measured["decode"].read_bytes == 16 * (weights + said)
    assert measured["update"].read_bytes is None


def test_prompts_are_full_and_their_pictures_in_their_place():
    mesh = make_mesh(Mesh(), jax.devices()[:1])
    sizes = preset("tiny")
    filled = programs._filled(shapes.prompts(CONFIG, sizes.vision, 3, mesh), sizes)
    assert isinstance(filled, PromptBatch)
    prompts = jax.tree.map(np.asarray, filled)
    assert prompts.mask_PS.all()
    assert prompts.token_PS.min() >= 0
    assert prompts.token_PS.max() < sizes.vocab_size
    assert len(np.unique(prompts.token_PS)) > 100
    # Three pictures of 32 patches in two rows of 64: eight features each, none of padding.
    segment = prompts.vision.segment_ZM.reshape(-1, 4)[:, 0]
    for prompt, features in enumerate(prompts.feature_index_PS):
        assert (features[:8] == features[0] + np.arange(8)).all()
        assert (features[8:] == -1).all()
        assert (segment[features[:8]] == prompt % 2 + 1).all()
    assert len(np.unique(prompts.feature_index_PS)) == 3 * 8 + 1
    assert np.std(prompts.vision.patch_ZMC) > 0.2


def test_shares_are_of_what_was_measured():
    each = programs.Measured("decode", [2.0, 1.0, 4.0], operations=80.0, read_bytes=60.0, memory_gib=1.0, compile_s=3.0)
    machine = Machine(bytes_per_s=100.0, operations_per_s=40.0, read_bytes=60)
    figures = programs.figures(each, machine, num_devices=2, published=50.0)
    assert figures["median_s"] == 2.0
    assert figures["mfu"] == 80 / 2 / 2 / 50
    assert figures["of_products"] == 80 / 2 / 2 / 40
    assert figures["of_memory"] == 60 / 2 / 100
    update = dataclasses.replace(each, read_bytes=None)
    assert programs.figures(update, machine, num_devices=1, published=None)["of_memory"] is None


def _started(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.programs", "--config=configs/tiny.py", *flags]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_command(tmp_path):
    sizes = ("data.max_pixels=6272", "data.vision_shards=16", "sampling.max_completion_length=16")
    settings = [f"--config.{setting}" for setting in sizes]
    done = _started("--programs=decode", "--repeats=1", f"--json={tmp_path}/figures.json", *settings)
    assert done.returncode == 0, done.stderr[-3_000:]
    assert "of memory" in done.stdout
    (row,) = json.loads((tmp_path / "figures.json").read_text())["programs"]
    assert row["name"] == "decode"
    assert len(row["seconds"]) == 1


def test_an_unknown_program_is_refused():
    refused = _started("--programs=decod")
    assert refused.returncode == 1
    assert "there is no decod; " in refused.stderr
    assert "Traceback" not in refused.stderr
