"""The benchmark of slots: its table, its flags, and completions of random lengths."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.slots import RandomEos, slots_to_measure
from r1vl_jax.sampling.methods import Temperature

ROOT = Path(__file__).parents[2]
SETTINGS = (
    *("data.train_records=8", "data.warmup_records=8", "data.vision_pretrain_records=0", "train.stages=('step_grpo',)"),
    *("train.prompts_per_update=4", "sampling.num_generations=16", "sampling.max_completion_length=64"),
    *("eval.batch_size=8", "eval.num_problems=8", "eval.num_validation=8", "data.vision_shards=4"),
)
ROW = re.compile(r"^(\d+)(?: \(64\))? +([\d,]+) +(\d+)% +([\d.]+) +([\d.e-]+) +[\d.e-]+ +[\d.e-]+ +[\d,]+$", re.M)


def _run(*flags: str, num_devices: int = 1) -> subprocess.CompletedProcess[str]:
    settings = [f"--config.{setting}" for setting in SETTINGS]
    command = [sys.executable, "-m", "benchmarks.slots", "--config=configs/tiny.py", *settings, *flags]
    environment = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}"}
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)


def test_fewer_slots_take_more_steps_and_less_memory():
    done = _run("--mean=6", "--repeats=1", "--config.sampling.slots=24")
    assert done.returncode == 0, done.stderr[-3_000:]
    title = re.search(r"64 completions of (\d+) to (\d+) tokens, on average (\d+)", done.stdout)
    assert title
    shortest, longest, mean = map(int, title.groups())
    assert 1 <= shortest < mean < longest <= 64
    rows = ROW.findall(done.stdout)
    assert [int(slots) for slots, *_ in rows] == [0, 32, 24, 16, 8, 4, 2, 1]
    steps, utilization, memory = ([float(row[column].replace(",", "")) for row in rows] for column in (1, 2, 3))
    assert steps[0] == longest
    assert steps[1:] == sorted(steps[1:])
    assert steps[-1] > 3 * steps[0]
    assert utilization[0] < 30
    assert utilization[-1] == 100
    assert memory[-1] < memory[0] / 3
    assert "sampling.slots=" in done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_slots_are_sharded_over_the_decoding_mesh():
    """Four shards on four devices, where the trainer's mesh has two."""
    done = _run("--repeats=1", "--config.mesh.tensor=2", num_devices=4)
    assert done.returncode == 0, done.stderr[-3_000:]
    assert [int(slots) for slots, *_ in ROW.findall(done.stdout)] == [0, 32, 16, 8, 4]


@pytest.mark.parametrize("mean", ["0.5", "nan", "65"])
def test_an_invalid_mean_is_an_error(mean: str):
    done = _run(f"--mean={mean}")
    assert done.returncode
    assert "--mean" in done.stderr.splitlines()[-1]


def test_invalid_slots_of_the_recipe_are_an_error():
    done = _run("--config.sampling.slots=200")
    assert done.returncode
    assert "sampling.slots=200 has no effect" in done.stderr


@pytest.mark.parametrize(
    ("num_rows", "num_shards", "recipe_slots", "expected"),
    [
        (16, 1, 0, [0, 8, 4, 2, 1]),
        (16, 8, 0, [0, 8]),
        (12, 1, 5, [0, 6, 5, 3, 1]),
        (4, 4, 0, [0]),
        (4, 1, 4, [0, 2, 1]),
    ],
)
def test_every_shard_has_equally_many_slots(num_rows, num_shards, recipe_slots, expected):
    assert slots_to_measure(num_rows, num_shards, recipe_slots) == expected


def test_other_tokens_keep_their_distribution():
    """40,000 samples of a uniform distribution over 100 tokens."""
    method = RandomEos(Temperature(), eos_id=100, probability=0.25)
    logits = jnp.zeros((40_000, 101)).at[:, 100].set(-jnp.inf)
    token = np.asarray(method(logits, jax.random.uniform(jax.random.key(0), (40_000, 2))))
    count = np.bincount(token, minlength=101)
    assert count[100] == pytest.approx(10_000, abs=350)  # four standard deviations
    np.testing.assert_allclose(count[:100], 300, atol=80)
