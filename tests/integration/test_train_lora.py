"""A run with an adapter: its checkpoints hold the adapter alone, it resumes to the bit, and is exported either way."""

from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
import pytest
from etils import epath
from helpers import tiny_run
from safetensors.numpy import load_file
from transformers import Qwen2VLForConditionalGeneration

from r1vl_jax.checkpoint.hf.export import export_adapter, export_run
from r1vl_jax.config import Config, resolve
from r1vl_jax.train import run
from r1vl_jax.training import step_grpo as stages
from r1vl_jax.training.components import build_components, initial_params

pytestmark = pytest.mark.usefixtures("quick")


class Stopped(Exception):
    """What ends a run in the middle."""


def settings(workdir: Path, data: Path) -> Config:
    config = tiny_run.settings(workdir, data)
    config.model.dtype = "bfloat16"
    config.model.lora_r, config.model.lora_target_modules = 2, ("q_proj", "qkv")
    config.optim.learning_rate = config.warmup.optim.learning_rate = 0.05
    config.warmup.optim.warmup_ratio = 0.0
    config.sampling.temperature = 50.0  # the untrained model is sure of itself; what it is made to say teaches it
    config.warmup.max_steps, config.eval.num_problems, config.observe.report = 1, 2, False
    return resolve(config)


def checkpoint(workdir: Path, stage: str, step: int) -> dict[str, np.ndarray]:
    """The leaves of a checkpoint by their path."""
    with ocp.training.Checkpointer(epath.Path(workdir) / "checkpoints" / stage) as checkpointer:
        return jax.tree.map(np.asarray, checkpointer.load(step))


def test_a_stopped_run_resumes_to_the_bit(tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run(settings(whole, tmp_path / "data"))
    step, calls = stages.step_grpo_step, []

    def stop_in_second(*args):
        calls.append(args)
        if len(calls) == 2:
            raise Stopped
        return step(*args)

    monkeypatch.setattr(stages, "step_grpo_step", stop_in_second)
    with pytest.raises(Stopped):
        run(settings(stopped, tmp_path / "data"))
    run(settings(stopped, tmp_path / "data"))
    assert len(calls) == 3  # the first update was not done again

    last, before = checkpoint(whole, "step_grpo", 2), checkpoint(whole, "warmup", 1)
    adapter = {path for path in last if path.startswith("params.")}
    maps = ("text.layers.self_attn.q_proj", "visual.blocks.attn.qkv")
    assert adapter == {f"params.{path}.lora_{part}" for path in maps for part in "ab"}
    assert len(last) == 3 * len(adapter) + 4  # two moments; step, num_skipped, and the counts of Adam and the schedule
    assert all(np.any(last[path] != before[path]) for path in adapter)
    jax.tree.map(np.testing.assert_array_equal, checkpoint(stopped, "step_grpo", 2), last)
    assert (stopped / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    _exports_agree(whole, tmp_path)


def _exports_agree(workdir: Path, directory: Path) -> None:
    """The model with the adapter folded in is the base that PEFT has put the adapter on."""
    export_run(workdir, directory / "merged", dtype="float32")
    export_adapter(workdir, directory / "adapter")
    merged = Qwen2VLForConditionalGeneration.from_pretrained(directory / "merged").state_dict()
    adapter = load_file(directory / "adapter" / "adapter_model.safetensors")
    name = "model.language_model.layers.1.self_attn.q_proj"
    a, b = (adapter[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    config = settings(workdir, directory / "data")
    components = build_components(config)
    initial = initial_params(config, components.inputs.model, components.definition)
    base = np.asarray(initial["text"]["layers"]["self_attn"]["q_proj"]["kernel"][1], np.float32).T
    # The base is kept in bfloat16; the sum is rounded to the dtype of the export alone.
    np.testing.assert_allclose(merged[f"{name}.weight"], base + 16 * b @ a, atol=1e-6, rtol=1e-6)
    assert np.abs(16 * b @ a).max() > 0.02
