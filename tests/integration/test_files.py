"""A run on a made-up Mulberry file as people hold it: prepared, warmed up, reinforced, without a test split."""

import json
from pathlib import Path

import pytest
from helpers import tiny_run
from PIL import Image, ImageDraw

from r1vl_jax.config import resolve
from r1vl_jax.observe.metrics import METRICS, read_lines
from r1vl_jax.response_format import compose
from r1vl_jax.train import run

pytestmark = pytest.mark.usefixtures("quick")


def write_mulberry(directory: Path, num_rows: int) -> Path:
    """A list of conversations and the pictures that they name; every third response is a reflective one."""
    (directory / "pictures").mkdir()
    rows = []
    for number in range(num_rows):
        count, image = number % 3 + 1, Image.new("RGB", (84, 28), "grey")
        for left in range(6, 28 * count, 28):
            ImageDraw.Draw(image).rectangle((left, 6, left + 15, 21), fill="white")
        image.save(directory / "pictures" / f"{number}.png")
        path = compose(f"{count} squares", "Count them.", [f"count={count}"], str(count))
        reflection = "\nLet me rethink it." if number % 3 == 2 else ""
        turns = [
            {"role": "user", "content": "<image>How many?"},
            {"role": "assistant", "content": path + reflection},
        ]
        rows.append({"messages": turns, "images": f"pictures/{number}.png"})
    (directory / "mulberry.json").write_text(json.dumps(rows))
    return directory / "mulberry.json"


def test_a_file_is_all_that_a_run_needs(tmp_path, capsys):
    config = tiny_run.settings(tmp_path / "run", tmp_path / "prepared")
    config.data.source = str(write_mulberry(tmp_path, 12))
    config.data.max_prompt_length = config.data.prompt_bucket = 64
    config.sampling.max_completion_length = 128
    summary = run(resolve(config))
    assert "accuracy" not in summary
    stages = [line["stage"] for line in read_lines(tmp_path / "run" / METRICS) if "loss" in line]
    assert stages == ["warmup", "warmup", "step_grpo", "step_grpo"]
    printed = capsys.readouterr().out
    assert "train: 8 of 12 rows kept, 4 dropped\n  dropped: 4 x its response is a reflective one" in printed
    assert "there is no split test: no evaluation before, between and after the stages" in printed
    assert (tmp_path / "run" / "report.html").is_file()
