"""The configuration: defaults and recipes resolve, and what cannot work is refused by name."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from r1vl_jax.config import Config, Loss, default, resolve, unknown_settings
from r1vl_jax.models.presets import PRESETS

ROOT = Path(__file__).parents[2]


def make(**changes):
    """The default configuration with some settings changed, given as `section__key=value`."""
    config = default()
    config.workdir = "runs/test"
    config.warmup.max_steps = 1
    for name, value in changes.items():
        config.update_from_flattened_dict({name.replace("__", "."): value})
    return config


FUSED = {"train__fused": True, "reward__backend": "kernels", "reward__undecided": "wrong"}


def test_a_fused_step_resolves():
    assert resolve(make(**FUSED)).train.fused


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
        ({"mesh__tensor": 0}, "mesh.tensor=0: expected at least 1, or -1, which is filled in"),
        ({"mesh__slices": -2}, "mesh.slices=-2: expected at least 1, or -1, which is filled in"),
        ({"sampling__num_generations": 1}, "sampling.num_generations=1: a group needs at least 2 samples"),
        (
            {"train__prompts_per_update": 6, "sampling__slots": 24, "eval__batch_size": 20},
            "sampling.slots=24 does nothing: at most 24 completions are drawn at one time; set fewer, or 0",
        ),
        (
            {"train__prompts_per_update": 6, "train__micro_batches": 16},
            "train.micro_batches=16 does not divide the 24 rows of an update (train.prompts_per_update x"
            " sampling.num_generations); set one of [1, 2, 3, 4, 6, 8, 12, 24]",
        ),
        (
            {"data__max_prompt_length": 100, "data__prompt_bucket": 64},
            "data.max_prompt_length=100 is no multiple of data.prompt_bucket=64",
        ),
        ({"data__min_pixels": 900, "data__max_pixels": 800}, "data.min_pixels=900 is more than data.max_pixels=800"),
        (
            {"train__micro_batches": 4, "train__tokens_per_micro_batch": 4096},
            "train.micro_batches=4 and train.tokens_per_micro_batch=4096 both say how an update is divided; set one",
        ),
        (
            {"train__micro_batches": 4, "warmup__batch_size": 10},
            "train.micro_batches=4 does not divide warmup.batch_size=10; set one of [1, 2, 5, 10]",
        ),
        (
            {"eval__steps": 5, "eval__num_problems": 6, "eval__num_validation": 7, "data__eval_records": 6},
            "eval.num_validation=7 exceeds data.eval_records=6",
        ),
        ({"warmup__max_steps": 0}, "train.stages has 'warmup' but warmup.max_steps is 0; set it, or drop the stage"),
        ({"eval__num_problems": 7, "data__eval_records": 6}, "eval.num_problems=7 exceeds data.eval_records=6"),
        (
            {"warmup__batch_size": 9, "data__warmup_records": 8},
            "warmup.batch_size=9 exceeds data.warmup_records=8; an epoch must hold a batch",
        ),
        (
            {"train__prompts_per_update": 16, "data__train_records": 15},
            "train.prompts_per_update=16 exceeds data.train_records=15; an update would hold the same prompt several",
        ),
        ({"seed": 2**63}, "seed=9223372036854775808: expected at least 0 and less than 2**63"),
        ({"sampling__temperature": float("inf")}, "sampling.temperature=inf: expected at least 0.001"),
        ({"reward__alpha": float("inf")}, "reward.alpha=inf: expected at least 0"),
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
        (
            {"train__stages": ("vision_pretrain",), "vision_pretrain__max_steps": 1},
            "vision_pretrain.batch_size=128 exceeds data.vision_pretrain_records=0; an epoch must hold a batch",
        ),
        (
            {"train__stages": ("step_grpo", "warmup")},
            "train.stages=('step_grpo', 'warmup'): expected some of ('vision_pretrain', 'warmup', 'step_grpo')",
        ),
        ({"model__preset": "huge"}, "model.preset='huge': expected one of ('tiny', '2b', '7b', '72b', '2.5-tiny'"),
        ({"reward__reward_weights": (1.0,)}, "reward.reward_weights=(1.0,): expected two numbers"),
        ({"warmup__optim__learning_rate": -1.0}, "warmup.optim.learning_rate=-1.0: expected more than 0"),
        ({"optim__learning_rate": float("inf")}, "optim.learning_rate=inf: expected more than 0"),
        ({"optim__max_grad_norm": 0.0}, "optim.max_grad_norm=0.0: expected more than 0"),
        ({"optim__adam_b1": 1.0}, "optim.adam_b1=1.0: expected in [0, 1)"),
        ({"eval__num_problems": 0}, "eval.num_problems=0: expected at least 1"),
        ({"seed": -1}, "seed=-1: expected at least 0"),
        ({"model__remat": "full"}, "model.remat='full': expected one of ('none', 'dots', 'block', 'offload')"),
        ({"model__lora_r": -1}, "model.lora_r=-1: expected at least 0, which trains the parameters themselves"),
        ({"model__lora_alpha": 8.0}, "model.lora_alpha=8.0 does nothing with model.lora_r=0; set model.lora_r, as 16"),
        (
            {"model__lora_r": 4, "model__lora_target_modules": ("q_proj", "c_attn")},
            "model.lora_target_modules has 'c_attn': expected some of ['down_proj', 'fc1', 'fc2', 'gate_proj',"
            " 'k_proj', 'mlp.0', 'mlp.2', 'mlp_0', 'mlp_2', 'o_proj', 'proj', 'q_proj', 'qkv', 'up_proj',"
            " 'v_proj']",
        ),
        (
            {"model__lora_r": 4, "model__lora_target_modules": ()},
            "model.lora_target_modules is empty but model.lora_r=4; set some of ['down_proj', 'fc1',",
        ),
        (
            {"model__lora_r": 4, "model__lora_target_modules": ("q_proj", "qkv"), "model__freeze_vision_tower": True},
            "model.lora_target_modules has 'qkv', which stands in what model.freeze_vision_tower freezes; drop one of",
        ),
        (
            {f"model__freeze_{part}": True for part in ("vision_tower", "merger", "language_model")},
            "model.freeze_language_model, model.freeze_vision_tower, model.freeze_merger leave nothing to train; unset",
        ),
        (
            {"reward__functions": ("m:f", "m:g"), "reward__function_weights": (1.0,)},
            "reward.functions has 2 entries but reward.function_weights 1; give each function a weight",
        ),
        (
            {"reward__undecided": "wrong"},
            "reward.undecided='wrong' does nothing with reward.backend='strings'; set reward.backend='kernels'",
        ),
        (
            {"train__fused": True},
            "train.fused needs reward.backend='kernels' and reward.undecided='wrong', for nothing leaves the device;"
            " got 'strings' and 'host'",
        ),
        (FUSED | {"loss__dynamic_sample": True}, "train.fused and loss.dynamic_sample: what is drawn again is decided"),
        (
            FUSED | {"loss__num_iterations": 2},
            "train.fused makes one update of a generation, but loss.num_iterations x loss.steps_per_generation is 2",
        ),
        ({"eval__supervised_steps": -1}, "eval.supervised_steps=-1: expected at least 0"),
        ({"sampling__temperature": 0.0}, "sampling.temperature=0.0: expected at least 0.001"),
        ({"sampling__mesh__tensor": 0}, "sampling.mesh.tensor=0: expected at least 1, or -1"),
    ],
)
def test_what_cannot_work_is_refused(changes, text):
    with pytest.raises(ValueError, match="the configuration cannot work") as caught:
        resolve(make(**changes))
    assert text in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


def test_adapters_are_called_as_here_or_as_in_peft():
    for names in (("mlp_0", "mlp_2"), ("mlp.0", "mlp.2"), ("q_proj", "mlp.0", "mlp_0")):
        resolve(make(model__lora_r=4, model__lora_target_modules=names))
    frozen = make(model__lora_r=4, model__lora_target_modules=("q_proj", "mlp.0"), model__freeze_merger=True)
    with pytest.raises(ValueError, match="has 'mlp_0', which stands in what model.freeze_merger freezes; drop one"):
        resolve(frozen)


def test_sizes_of_the_embedded_task_do_not_limit_other_data():
    resolve(make(data__source="some/directory", eval__num_problems=5_000, data__eval_records=6))


def test_presets_are_those_of_the_model():
    for preset in PRESETS:
        resolve(make(model__preset=preset))
    with pytest.raises(ValueError, match=re.escape(str(tuple(PRESETS)))):
        resolve(make(model__preset="huge"))


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
        (
            "--config.sampling.temprature=1",
            "config.sampling.temprature: no such setting; did you mean temperature? config.sampling has",
        ),
        ("--config.opt.learning_rate=1", "config.opt: no such setting; did you mean optim? config has workdir"),
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


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["configs/nope.py"], "Configuration is not available because of an earlier failure to load"),
        (
            ["configs/tiny.py", "--config.optim.lrr=1"],
            "config.optim.lrr: no such setting; config.optim has learning_rate,",
        ),
        (
            ["configs/tiny.py", "--config.sampling.num_generations=1"],
            "the configuration cannot work:\n  sampling.num_generations=1:",
        ),
        (
            ["configs/tiny.py", "--config.model.path=nowhere"],
            "the run lacks what its configuration names:\n  config.model.path='nowhere'",
        ),
    ],
)
def test_what_cannot_work_on_the_command_line_ends_the_program(arguments, text, tmp_path):
    """Before any device is touched: there is none of the kind that is asked for."""
    command = [sys.executable, "-m", "r1vl_jax.train", f"--config={arguments[0]}", *arguments[1:]]
    environment = os.environ | {"JAX_PLATFORMS": "absent", "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(
        [*command, f"--config.workdir={tmp_path}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith(text)
    assert "Traceback" not in ended.stderr
