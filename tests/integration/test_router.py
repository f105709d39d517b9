"""R1-Router from its task to its loop: steps are trained on, rewarded and evaluated, and the run answers questions."""

import json
import runpy
from pathlib import Path

import pytest

import r1vl_jax
from r1vl_jax.chat.generation import Settings
from r1vl_jax.checkpoint.hf.export import export_once
from r1vl_jax.config import resolve
from r1vl_jax.router.datasets import read_questions
from r1vl_jax.router.digits import task
from r1vl_jax.router.evaluate import evaluate, sample_with
from r1vl_jax.router.loop import Router
from r1vl_jax.router.prompts import load_wording
from r1vl_jax.router.search import find_bases
from r1vl_jax.train import run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def recipe(tmp_path):
    sizes = {"warmup_questions": 12, "train_questions": 6, "eval_questions": 2, "vision_pretrain_records": 4}
    task.write(tmp_path / "task", num_facts=60, **sizes)
    config = runpy.run_path(str(ROOT / "configs" / "router_tiny.py"))["get_config"]()
    config.workdir, config.data.source = str(tmp_path / "run"), str(tmp_path / "task" / "records")
    config.vision_pretrain.max_steps = config.warmup.max_steps = config.train.max_steps = 1
    config.vision_pretrain.batch_size = config.warmup.batch_size = config.train.prompts_per_update = 4
    config.sampling.num_generations = 2
    config.eval.num_problems = config.eval.num_validation = config.eval.batch_size = 4
    config.observe.progress = config.observe.tensorboard = False
    return config


def test_from_the_task_to_answers(quick, recipe, tmp_path):
    summary = run(resolve(recipe))
    assert summary["reward"].keys() == {"start", "warmup", "step_grpo"}
    assert summary["reward_by_kind"]["warmup"].keys() == {"ret", "ans"}
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (update,) = [line for line in lines if "rewards/step_reward/mean" in line]
    assert update["reward"] == pytest.approx(update["rewards/step_reward/mean"])
    assert "kl" in update  # reported, though it is no part of the loss
    model = r1vl_jax.load(export_once(str(tmp_path / "run"), "", 0, tmp_path, "float32"))
    sample = sample_with(model, Settings(max_new_tokens=8))
    router = Router(model.prompter.encode, sample, load_wording("short"), find_bases(tmp_path / "task" / "bases", 3))
    questions = read_questions(tmp_path / "task" / "questions" / "test.jsonl")
    assert evaluate(router, questions, tmp_path / "out")["router"]["num_questions"] == 2
