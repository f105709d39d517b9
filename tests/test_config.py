"""The configuration: defaults and recipes resolve, and what cannot work is refused by name."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from r1vl_jax.config import Config, Loss, default, resolve, unknown_settings

ROOT = Path(__file__).parent.parent


def make(**changes):
    """The default configuration with some settings changed, given as `section__key=value`."""
    config = default()
    config.workdir = "runs/test"
    config.warmup.max_steps = 1
    for name, value in changes.items():
        config.update_from_flattened_dict({name.replace("__", "."): value})
    return config


def test_defaults_resolve_with_a_workdir():
    resolved = resolve(make())
    assert isinstance(resolved, Config)
    assert resolved.optim.learning_rate == 1e-6
    assert resolved.warmup.optim.lr_scheduler_type == "cosine"


@pytest.mark.parametrize("recipe", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_recipes_resolve(recipe):
    config = runpy.run_path(str(recipe))["get_config"]()
    if not config.workdir:
        config.workdir = "runs/test"
    resolve(config)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"workdir": ""}, "workdir='': expected a directory that receives the run (--config.workdir=DIR)"),
        ({"sampling__num_generations": 1}, "sampling.num_generations=1: a group needs at least 2 samples"),
        (
            {"train__prompts_per_update": 6, "train__micro_batches": 4},
            "train.micro_batches=4 does not divide train.prompts_per_update=6 (24 rows); set one of [1, 2, 3, 6]",
        ),
        (
            {"data__max_prompt_length": 100, "data__prompt_bucket": 64},
            "data.max_prompt_length=100 is no multiple of data.prompt_bucket=64",
        ),
        ({"data__min_pixels": 900, "data__max_pixels": 800}, "data.min_pixels=900 is more than data.max_pixels=800"),
        ({"warmup__max_steps": 0}, "train.stages has 'warmup' but warmup.max_steps is 0; set it, or drop the stage"),
        ({"eval__num_problems": 7, "data__eval_records": 6}, "eval.num_problems=7 exceeds data.eval_records=6"),
        (
            {"warmup__batch_size": 9, "data__warmup_records": 8},
            "warmup.batch_size=9 exceeds data.warmup_records=8; an epoch must hold a batch",
        ),
        ({"loss__scale_rewards": "row"}, "loss.scale_rewards='row': expected one of ('group', 'batch', 'none')"),
        ({"loss__loss_type": "cispo"}, "loss.loss_type='cispo' needs loss.epsilon_high, the bound of the ratio"),
        (
            {"loss__loss_type": "cispo", "loss__epsilon_high": 5.0, "loss__delta": 2.0},
            "loss.delta=2.0 has no meaning for loss.loss_type='cispo'; leave it out",
        ),
        ({"loss__delta": 1.2}, "loss.delta=1.2: expected more than 1 + the upper epsilon, 1.2"),
        (
            {"loss__use_bias_correction_kl": True, "loss__beta": 0.0},
            "loss.use_bias_correction_kl changes the KL term, but loss.beta is 0",
        ),
        (
            {"loss__soft_punish_cache": 2000},
            "loss.soft_punish_cache=2000 exceeds sampling.max_completion_length=1024; set a fifth of it",
        ),
        (
            {"loss__num_iterations": 2, "loss__steps_per_generation": 4, "train__save_steps": 20},
            "train.save_steps=20 is no multiple of loss.num_iterations x loss.steps_per_generation=8: a run resumes"
            " where a generation begins; set 24",
        ),
        ({"loss__egsw_temperature": 0.0}, "loss.egsw_temperature=0.0: expected more than 0"),
        ({"data__difficulty": 4}, "data.difficulty=4: expected one of (1, 2, 3)"),
        ({"train__stages": ("grpo",)}, "train.stages=('grpo',): expected among 'warmup', 'step_grpo'"),
        ({"sampling__temperature": 0.0}, "sampling.temperature=0.0: expected more than 0"),
    ],
)
def test_what_cannot_work_is_refused(changes, text):
    with pytest.raises(ValueError, match="the configuration cannot work") as caught:
        resolve(make(**changes))
    assert text in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


def test_all_faults_are_told_at_once():
    with pytest.raises(ValueError, match=r"model.dtype='int8'[\s\S]*loss.beta=-1.0"):
        resolve(make(model__dtype="int8", loss__beta=-1.0))


def test_a_setting_that_may_be_none():
    assert resolve(make()).loss.epsilon_high is None
    assert resolve(make(loss__epsilon_high=1)).loss.epsilon_high == 1.0
    with pytest.raises(TypeError, match="epsilon_high"):
        make(loss__epsilon_high="wide")


NAMED_RECIPES = {
    "DAPO": {
        "loss_type": "dapo",
        "epsilon_high": 0.28,
        "beta": 0.0,
        "mask_truncated_completions": True,
        "dynamic_sample": True,
        "soft_punish_cache": 200,
    },
    "Dr. GRPO": {"loss_type": "dr_grpo", "scale_rewards": "none", "beta": 0.0},
    "GSPO": {
        "importance_sampling_level": "sequence",
        "epsilon": 3e-4,
        "epsilon_high": 4e-4,
        "beta": 0.0,
        "steps_per_generation": 4,
    },
    "CISPO": {"loss_type": "cispo", "epsilon_high": 5.0, "beta": 0.0},
    "EGSW": {"egsw_level": "step"},
}


@pytest.mark.parametrize("name", NAMED_RECIPES)
def test_named_recipes_resolve_and_are_documented(name):
    resolve(make(**{f"loss__{setting}": value for setting, value in NAMED_RECIPES[name].items()}))
    assert name in str(Loss.__doc__)
    assert all(setting in str(Loss.__doc__) for setting in NAMED_RECIPES[name])


def test_wrong_type():
    with pytest.raises(TypeError, match="learning_rate"):
        make(optim__learning_rate="fast")
    config = make()
    with config.ignore_type():
        config.train.max_steps = 1.5
    with pytest.raises(ValueError, match=r"config.train.max_steps=1.5: expected .*int.*, got float"):
        resolve(config)


def test_an_unknown_setting_in_a_recipe_is_refused_with_the_nearest():
    with pytest.raises(AttributeError, match='Did you mean "learning_rate" instead of "learning_rat"'):
        default().optim.learning_rat = 1.0


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("--config.lrr=1", "config.lrr: no such setting; config has workdir, seed, model,"),
        ("--config.opt.learning_rate=1", "config.opt: no such setting; config has workdir"),
        (
            "--config.warmup.optim.lr=1",
            "config.warmup.optim.lr: no such setting; config.warmup.optim has learning_rate,",
        ),
        ("--config.seed.x=1", "config.seed.x: no such setting; config.seed has no parts"),
    ],
)
def test_unknown_settings(argument, text):
    (told,) = unknown_settings([argument])
    assert told.startswith(text)


def test_known_settings():
    arguments = ["--config=configs/tiny.py", "--config.reward.reward_weights[0]=2", "--config.optim.learning_rate", "1"]
    assert not list(unknown_settings(arguments))


def test_an_unknown_setting_on_the_command_line_ends_the_program():
    """Before any device is touched: there is none of the kind that is asked for."""
    command = [sys.executable, "-m", "r1vl_jax.train", "--config=configs/tiny.py", "--config.optim.lrr=1"]
    environment = os.environ | {"JAX_PLATFORMS": "absent"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.startswith("config.optim.lrr: no such setting; config.optim has learning_rate,")
    assert "Traceback" not in ended.stderr
