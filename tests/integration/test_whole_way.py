"""From a published checkpoint and published files to answers, by the commands of the documentation alone.

Once with all parameters trained, and once with an adapter that is never merged before the end.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.chat_model import write_chat_model
from helpers.published_sets import write_published_sets
from pyarrow import parquet
from safetensors.numpy import load_file

from r1vl_jax.data.digits import task

REPOSITORY = Path(__file__).parents[2]
SIZES = (
    *("model.dtype=float32", "data.max_pixels=6272", "data.max_prompt_length=128", "data.prompt_bucket=128"),
    *("data.patch_bucket=64", "data.test_size=4", "sampling.max_completion_length=128", "train.completion_bucket=64"),
    *(
        "eval.num_problems=2",
        "eval.max_completion_length=16",
        "observe.log_completions=1",
        "observe.tensorboard=False",
        "observe.progress=False",
    ),
)
LEARNING_RATE = 0.01
WARMUP = ("warmup.max_steps=2", "warmup.batch_size=4", f"warmup.optim.learning_rate={LEARNING_RATE}")
STEP_GRPO = (
    *("train.max_steps=2", "train.prompts_per_update=2", "sampling.num_generations=2"),
    f"optim.learning_rate={LEARNING_RATE}",
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that transformers wrote, and both data sets."""
    directory = tmp_path_factory.mktemp("inputs")
    records = write_published_sets(directory, 16)
    write_chat_model(directory / "model", texts=list(task.texts(records)))
    return directory


@pytest.fixture
def command(inputs: Path):
    """Runs a module as a user does, on one device, with compiled programs kept for the next."""

    def call(module: str, *arguments: str) -> str:
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(inputs / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONPATH": str(REPOSITORY),
        }
        done = subprocess.run(
            [sys.executable, "-m", f"r1vl_jax.{module}", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def train(command, recipe: str, workdir: Path, model: Path, source: Path, *settings: str) -> str:
    named = {"workdir": workdir, "model.path": model, "data.source": source}
    flags = [f"--config.{name}={value}" for name, value in named.items()]
    flags += [f"--config.{setting}" for setting in (*SIZES, *settings)]
    return command("train", f"--config={REPOSITORY / 'configs' / recipe}", *flags)


def metrics(workdir: Path, stage: str) -> list[dict]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["stage"] == stage and "loss" in line]


def test_all_parameters(inputs: Path, command, tmp_path: Path):
    warmup, export, run, out = (tmp_path / name for name in ("warmup", "export", "run", "out"))
    printed = train(command, "7b_warmup.py", warmup, inputs / "model", inputs / "mulberry", *WARMUP)
    assert "train: layout mulberry" in printed
    assert "train: 12 of 12 rows kept, 0 dropped" in printed
    assert "earlier turns before the question" in printed
    command("checkpoint.hf_export", f"--run={warmup}", f"--out={export}", "--dtype=float32")

    printed = train(command, "7b.py", run, export, inputs / "r1vl", *STEP_GRPO)
    assert "train: layout r1vl" in printed
    assert "no key steps" not in printed
    assert [line["step"] for line in metrics(run, "step_grpo")] == [1, 2]
    prompts = {
        row["prompt"][:7] for path in run.glob("completions/*.parquet") for row in parquet.read_table(path).to_pylist()
    }
    assert prompts == {"<video>", "<image>"}

    printed = command("evaluate", f"--run={run}", f"--out={out}", "--max_new_tokens=16", "--batch_size=4")
    assert "of 4 records" in printed
    (row, *_) = parquet.read_table(out / "predictions.parquet").to_pylist()
    picture = inputs / "mulberry" / "images" / "0.png"
    settings = ("--prompt=What is the largest digit?", f"--image={picture}", "--max_new_tokens=16")
    assert row["prediction"]
    assert command("generate", f"--model={out / 'model-step_grpo-2'}", *settings).strip()


@pytest.mark.slow  # seven programs are started; adapters have tests of their own
def test_an_adapter(inputs: Path, command, tmp_path: Path):
    warmup, first, run, last, out = (tmp_path / name for name in ("warmup", "first", "run", "last", "out"))
    base = inputs / "model"
    changes = ("train.stages=('warmup',)", "model.adapter_path=")
    train(command, "2b_lora.py", warmup, base, inputs / "mulberry", *WARMUP, *changes)
    command("checkpoint.hf_export", f"--run={warmup}", f"--out={first}", "--adapter")

    train(command, "2b_lora.py", run, base, inputs / "r1vl", *STEP_GRPO, f"model.adapter_path={first}")
    assert metrics(run, "step_grpo")[0]["kl"] == pytest.approx(0, abs=1e-5)  # the reference has the adapter, too
    command("checkpoint.hf_export", f"--run={run}", f"--out={last}", "--adapter")
    before, after = (load_file(directory / "adapter_model.safetensors") for directory in (first, last))
    for name, matrix in before.items():
        assert np.abs(matrix).max() > 0.005
        np.testing.assert_allclose(after[name], matrix, rtol=0, atol=2.1 * LEARNING_RATE)  # two updates of Adam

    command("evaluate", f"--run={run}", f"--out={out}", "--max_new_tokens=16", "--batch_size=4", "--limit=2")
    question = ("--prompt=How many digits are there?", f"--image={inputs / 'r1vl' / 'images' / '1.png'}")
    settings = (*question, "--max_new_tokens=16")
    answer = command("generate", f"--model={base}", f"--adapter={last}", *settings)
    assert answer.strip()
    assert command("generate", f"--model={out / 'model-step_grpo-2'}", *settings) == answer
