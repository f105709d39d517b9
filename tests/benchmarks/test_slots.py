"""The benchmark of slots: the same completions by any number of them, and a table that fits them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.slots import numbers_of_slots

ROOT = Path(__file__).parents[2]
SETTINGS = (
    *("data.train_records=8", "data.warmup_records=8", "data.alignment_records=0", "train.stages=('step_grpo',)"),
    *("train.prompts_per_update=2", "sampling.num_generations=4", "sampling.max_completion_length=24"),
    *("eval.batch_size=8", "eval.num_problems=8", "eval.num_validation=8", "data.vision_shards=2"),
)


def _started(*flags: str) -> subprocess.CompletedProcess[str]:
    settings = [f"--config.{setting}" for setting in SETTINGS]
    command = [sys.executable, "-m", "benchmarks.slots", "--config=configs/tiny.py", *settings, *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_fewer_slots_take_more_steps_and_less_memory():
    done = _started("--mean=6", "--repeats=1")
    assert done.returncode == 0, done.stderr[-3_000:]
    title = re.search(r"8 completions of (\d+) to (\d+) tokens, on average (\d+)", done.stdout)
    assert title
    shortest, longest, mean = map(int, title.groups())
    assert 1 <= shortest < mean < longest <= 24
    rows = re.findall(r"^(\d+)(?: \(8\))? +([\d,]+) +(\d+)% +([\d.]+) +([\d.e-]+) +[\d,]+$", done.stdout, re.M)
    assert [int(slots) for slots, *_ in rows] == [0, 4, 2]
    steps, drawing, memory = ([float(row[column]) for row in rows] for column in (1, 2, 3))
    assert steps[0] == longest
    assert steps == sorted(steps)
    assert drawing == sorted(drawing)
    assert memory == sorted(memory, reverse=True)
    fastest = min(rows, key=lambda row: float(row[4]))[0]
    assert done.stdout.rstrip().endswith(f"sampling.slots={fastest}")


def test_a_mean_below_a_token_is_refused():
    done = _started("--mean=0.5")
    assert done.returncode
    assert "mean" in done.stderr


@pytest.mark.parametrize(
    ("num_rows", "num_shards", "expected"),
    [(16, 1, [0, 8, 4, 2]), (16, 8, [0, 8]), (12, 1, [0, 6, 3]), (3, 1, [0])],
)
def test_every_shard_keeps_a_slot(num_rows, num_shards, expected):
    assert list(numbers_of_slots(num_rows, num_shards)) == expected
