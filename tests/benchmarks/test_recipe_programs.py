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
from benchmarks.side_by_side.roofline import Machine
from r1vl_jax.aot import shapes
from r1vl_jax.arrays import PromptBatch
from r1vl_jax.config import Config, Data, Mesh, Model, Sampling, Train
from r1vl_jax.models.presets import preset
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.sharding.mesh import make_mesh

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
    assert measured["decode"].read_bytes == 16 * (weights / 2 + said)  # four prompts: each is read by two devices
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
    figures = programs.figures(each, machine, num_devices=2, published=Machine(120.0, 50.0, 0))
    assert figures["median_s"] == 2.0
    assert figures["mfu"] == 80 / 2 / 2 / 50
    assert figures["of_products"] == 80 / 2 / 2 / 40
    assert figures["mbu"] == 60 / 2 / 120
    assert figures["of_reading"] == 60 / 2 / 100
    update = programs.figures(dataclasses.replace(each, read_bytes=None), machine, num_devices=1, published=None)
    assert update["mfu"] is update["mbu"] is update["of_reading"] is None


@pytest.mark.parametrize(("tensor", "expected"), [(1, 8 * 500 + 8 * 3 * 10), (2, 4 * 500 + 8 * 3 * 10)])
def test_devices_that_share_the_decoder_read_less_of_it(monkeypatch, tensor, expected):
    """As many keys and values, as heads are divided in place of rows."""
    monkeypatch.setattr(programs, "bytes_of_token", lambda sizes, itemsize, past: 500 + 10 * past)
    config = Config(data=Data(max_prompt_length=5), train=Train(prompts_per_update=2), sampling=Sampling(4))
    mesh = make_mesh(Mesh(tensor=tensor), jax.devices()[:8])
    definition = Definition(preset("tiny"))
    # Two prompts of 5 tokens, and of each of eight rows 0 to 7 tokens: 38 in all, over eight devices.
    assert programs._bytes_read(8, mesh, config, definition) == expected + 8 * 10 * (38 / 8 - 3)
    queued = dataclasses.replace(config, sampling=Sampling(4, slots=8))
    assert programs._bytes_read(8, mesh, queued, definition) is None


def test_what_fails_is_told_and_the_rest_is_measured(monkeypatch, tmp_path, capsys):
    def measured(program, config, model, repeats):
        if program.name == "prefill":
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: too much\nof it")
        return programs.Measured(program.name, [1.0], 2.0, None, 0.5, 0.1)

    monkeypatch.setattr(programs, "_measured", measured)
    monkeypatch.setattr(programs, "measure_machine", lambda dtype, read_bytes: Machine(1.0, 1.0, 1))
    with pytest.raises(ValueError, match="failed: prefill"):
        programs.run(CONFIG, ["prefill", "update"], repeats=1, json_file=f"{tmp_path}/figures.json")
    rows = json.loads((tmp_path / "figures.json").read_text())["programs"]
    assert rows[0] == {"name": "prefill", "reason": "RESOURCE_EXHAUSTED: too much"}
    assert rows[1]["median_s"] == 1.0
    assert "failed" in capsys.readouterr().out


def _started(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.programs", "--config=configs/tiny.py", *flags]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_command(tmp_path):
    sizes = ("data.max_pixels=6272", "data.vision_shards=16", "sampling.max_completion_length=16")
    settings = [f"--config.{setting}" for setting in sizes]
    done = _started("--programs=decode", "--repeats=1", f"--json={tmp_path}/figures.json", *settings)
    assert done.returncode == 0, done.stderr[-3_000:]
    assert "of reading" in done.stdout
    (row,) = json.loads((tmp_path / "figures.json").read_text())["programs"]
    assert row["name"] == "decode"
    assert len(row["seconds"]) == 1


@pytest.mark.parametrize(
    ("flag", "told"),
    [("--programs=decod", "there is no decod; "), ("--json=/not/there.json", "--json=/not/there.json: ")],
)
def test_what_cannot_be_is_refused(flag, told):
    refused = _started(flag)
    assert refused.returncode == 1
    assert told in refused.stderr
    assert "Traceback" not in refused.stderr
