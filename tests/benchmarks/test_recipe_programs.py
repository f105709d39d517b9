"""The benchmark of a recipe's programs: full batches, and results that follow from the measurements."""

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
def measured() -> dict[str, programs.Measurement]:
    results = programs.measure(CONFIG, ["prefill", "decode", "reference_logps", "update"], repeats=2)
    return {result.name: result for result in results if isinstance(result, programs.Measurement)}


def test_every_program_runs_the_requested_number_of_times(measured):
    assert list(measured) == ["prefill", "decode", "reference_logps", "update"]
    for each in measured.values():
        assert len(each.seconds) == 2
        assert each.flops > 0
        assert each.memory_gib > 0
    assert measured["update"].flops > 2 * measured["reference_logps"].flops


def test_decoding_reads_its_weights_for_every_token(measured):
    sizes = preset("tiny")
    layer = sizes.hidden_size * (2 * sizes.hidden_size + 2 * 2 * sizes.head_dim + 3 * sizes.intermediate_size)
    weights = 4 * (sizes.num_hidden_layers * layer + sizes.hidden_size * sizes.vocab_size)
    past = 4 * (4 * 64 + 8 * 7.5) / 8 * 2 * 2 * sizes.head_dim * sizes.num_hidden_layers  # per device, of eight
    assert sizes.num_key_value_heads == 2
    assert measured["decode"].read_bytes == 16 * (weights / 2 + past)  # four prompts over eight devices: two share each
    assert measured["update"].read_bytes is None


def test_prompts_are_full_and_their_images_in_place():
    mesh = make_mesh(Mesh(), jax.devices()[:1])
    sizes = preset("tiny")
    made = programs._random_arrays(shapes.prompts(CONFIG, sizes.vision, 3, mesh), sizes)
    assert isinstance(made, PromptBatch)
    prompts = jax.tree.map(np.asarray, made)
    assert prompts.mask_PS.all()
    assert prompts.token_PS.min() >= 0
    assert prompts.token_PS.max() < sizes.vocab_size
    assert len(np.unique(prompts.token_PS)) > 100
    # Three images of 32 patches in two rows of 64: eight features each, none of padding.
    segment = prompts.vision.segment_ZM.reshape(-1, 4)[:, 0]
    for prompt, features in enumerate(prompts.feature_index_PS):
        assert (features[:8] == features[0] + np.arange(8)).all()
        assert (features[8:] == -1).all()
        assert (segment[features[:8]] == prompt % 2 + 1).all()
    assert len(np.unique(prompts.feature_index_PS)) == 3 * 8 + 1
    assert np.std(prompts.vision.patch_ZMC) > 0.2


def test_utilizations():
    each = programs.Measurement("decode", [2.0, 1.0, 4.0], flops=80.0, read_bytes=60.0, memory_gib=1.0, compile_s=3.0)
    machine = Machine(bytes_per_s=100.0, flops_per_s=40.0, read_bytes=60)
    results = programs.to_json(each, machine, num_devices=2, published=Machine(120.0, 50.0, 0))
    assert results["median_s"] == 2.0
    assert results["mfu"] == 80 / 2 / 2 / 50
    assert results["of_matmul"] == 80 / 2 / 2 / 40
    assert results["mbu"] == 60 / 2 / 120
    assert results["of_reads"] == 60 / 2 / 100
    update = programs.to_json(dataclasses.replace(each, read_bytes=None), machine, num_devices=1, published=None)
    assert update["mfu"] is update["mbu"] is update["of_reads"] is None


@pytest.mark.parametrize(("tensor", "expected"), [(1, 8 * 500 + 8 * 3 * 10), (2, 4 * 500 + 8 * 3 * 10)])
def test_sharding_the_decoder_divides_the_bytes_read(monkeypatch, tensor, expected):
    """The cache is as large per device: its heads are sharded in place of its rows."""
    monkeypatch.setattr(programs, "decode_step_bytes", lambda sizes, itemsize, past: 500 + 10 * past)
    config = Config(data=Data(max_prompt_length=5), train=Train(prompts_per_update=2), sampling=Sampling(4))
    mesh = make_mesh(Mesh(tensor=tensor), jax.devices()[:8])
    definition = Definition(preset("tiny"))
    # Two prompts of 5 tokens, and of each of eight rows 0 to 7 tokens: 38 in all, over eight devices.
    assert programs._decode_bytes(8, mesh, config, definition) == expected + 8 * 10 * (38 / 8 - 3)
    with_slots = dataclasses.replace(config, sampling=Sampling(4, slots=8))
    assert programs._decode_bytes(8, mesh, with_slots, definition) is None


def test_a_failure_is_reported_and_the_rest_is_measured(monkeypatch, tmp_path, capsys):
    def measure_program(program, config, model, repeats):
        if program.name == "prefill":
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: too much\nof it")
        return programs.Measurement(program.name, [1.0], 2.0, None, 0.5, 0.1)

    monkeypatch.setattr(programs, "_measure_program", measure_program)
    monkeypatch.setattr(programs, "measure_machine", lambda dtype, read_bytes: Machine(1.0, 1.0, 1))
    with pytest.raises(ValueError, match="failed: prefill"):
        programs.run(CONFIG, ["prefill", "update"], repeats=1, json_file=f"{tmp_path}/results.json")
    rows = json.loads((tmp_path / "results.json").read_text())["programs"]
    assert rows[0] == {"name": "prefill", "reason": "RESOURCE_EXHAUSTED: too much"}
    assert rows[1]["median_s"] == 1.0
    assert "failed" in capsys.readouterr().out


def _run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.programs", "--config=configs/tiny.py", *flags]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_command(tmp_path):
    sizes = ("data.max_pixels=6272", "data.vision_shards=16", "sampling.max_completion_length=16")
    settings = [f"--config.{setting}" for setting in sizes]
    done = _run("--programs=decode", "--repeats=1", f"--json={tmp_path}/results.json", *settings)
    assert done.returncode == 0, done.stderr[-3_000:]
    assert "of reads" in done.stdout
    (row,) = json.loads((tmp_path / "results.json").read_text())["programs"]
    assert row["name"] == "decode"
    assert len(row["seconds"]) == 1


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--programs=decod", "there is no decod; "), ("--json=/not/there.json", "--json=/not/there.json: ")],
)
def test_invalid_flags_are_rejected(flag, message):
    refused = _run(flag)
    assert refused.returncode == 1
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr
