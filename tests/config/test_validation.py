"""Validation: invalid values and contradictions are refused by name, all at once."""

import re

import pytest
from helpers.configs import make_config

from r1vl_jax.config import resolve
from r1vl_jax.models.presets import PRESETS

FUSED = {"train__fused": True, "reward__backend": "kernels", "reward__undecided": "wrong"}


def test_two_halves_of_an_update_resolve():
    """Stages that are not run may have any size."""
    changes = {"train__stages": ("step_grpo",), "warmup__batch_size": 9, "train__tokens_per_micro_batch": 4096}
    assert resolve(make_config(train__gradient_cosine=True, **changes)).train.min_micro_batches == 2


def test_a_fused_step_resolves():
    assert resolve(make_config(**FUSED)).train.fused


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"workdir": ""}, "workdir='': expected a directory that receives the run (--config.workdir=DIR)"),
        ({"mesh__tensor": 0}, "mesh.tensor=0: expected at least 1, or -1, which is filled in"),
        ({"mesh__slices": -2}, "mesh.slices=-2: expected at least 1, or -1, which is filled in"),
        ({"sampling__num_generations": 1}, "sampling.num_generations=1: a group needs at least 2 samples"),
        (
            {"train__prompts_per_update": 6, "sampling__slots": 24, "eval__batch_size": 20},
            "sampling.slots=24 has no effect: at most 24 completions are decoded at a time; set fewer, or 0",
        ),
        (
            {"train__prompts_per_update": 6, "train__micro_batches": 16},
            "train.micro_batches=16 does not divide the 24 rows of an update (train.prompts_per_update x"
            " sampling.num_generations); set one of [1, 2, 3, 4, 6, 8, 12, 24]",
        ),
        (
            {"data__max_prompt_length": 100, "data__prompt_bucket": 64},
            "data.max_prompt_length=100 is not a multiple of data.prompt_bucket=64",
        ),
        ({"data__min_pixels": 900, "data__max_pixels": 800}, "data.min_pixels=900 is more than data.max_pixels=800"),
        ({"data__min_pixels": 1, "data__max_pixels": 783}, "data.max_pixels=783: expected at least 784, the 28 x 28"),
        (
            {"train__micro_batches": 4, "train__tokens_per_micro_batch": 4096},
            "train.micro_batches=4 and train.tokens_per_micro_batch=4096 both set the micro-batches of an update",
        ),
        (
            {"train__micro_batches": 4, "warmup__batch_size": 10},
            "train.micro_batches=4 does not divide warmup.batch_size=10; set one of [1, 2, 5, 10]",
        ),
        (
            {"train__gradient_cosine": True, "train__prompts_per_update": 7, "sampling__num_generations": 4},
            "train.prompts_per_update=7: expected an even number, since train.gradient_cosine compares the gradients of"
            " two halves of an update; set one, or unset train.gradient_cosine",
        ),
        (
            {"train__gradient_cosine": True, "warmup__batch_size": 9},
            "warmup.batch_size=9: expected an even number, since train.gradient_cosine",
        ),
        (
            {"train__gradient_cosine": True, "train__micro_batches": 3}
            | {"train__prompts_per_update": 6, "warmup__batch_size": 12},
            "train.micro_batches=3: expected an even number, since train.gradient_cosine",
        ),
        (
            {"eval__steps": 5, "eval__num_problems": 6, "eval__num_validation": 7, "data__eval_records": 6},
            "eval.num_validation=7 exceeds data.eval_records=6",
        ),
        (
            {"data__source": "a.json", "data__layout": "mullberry"},
            "data.layout='mullberry': expected one of ('', 'mulberry', ",
        ),
        (
            {"data__layout": "trl", "data__test_size": 5.0},
            "no effect with data.source='digits': data.layout='trl', data.test_size=5.0; unset, or set data.source",
        ),
        (
            {"data__source": "a.json", "data__columns": "question=problem"},
            "data.columns='question=problem': expected FIELD=COLUMN, with commas between, and FIELD one of problem,",
        ),
        ({"data__source": "a.json", "data__columns": "problem"}, "data.columns='problem': expected FIELD=COLUMN"),
        (
            {"data__source": "a.json", "data__columns": "answer=a,answer=b"},
            "data.columns='answer=a,answer=b' names answer",
        ),
        (
            {"data__source": "a.json", "data__test_size": 1.5},
            "data.test_size=1.5: expected a share below 1, or a whole",
        ),
        ({"data__source": "a.json", "data__validation_size": -0.1}, "data.validation_size=-0.1: expected at least 0"),
        ({"data__source": "a.json", "data__split_seed": -1}, "data.split_seed=-1: expected at least 0"),
        ({"warmup__max_steps": 0}, "train.stages has 'warmup' but warmup.max_steps is 0; set it, or remove the stage"),
        ({"eval__num_problems": 7, "data__eval_records": 6}, "eval.num_problems=7 exceeds data.eval_records=6"),
        (
            {"warmup__batch_size": 9, "data__warmup_records": 8},
            "warmup.batch_size=9 exceeds data.warmup_records=8; an epoch must hold a batch",
        ),
        (
            {"train__prompts_per_update": 16, "data__train_records": 15},
            "train.prompts_per_update=16 exceeds data.train_records=15; an update would have duplicate prompts",
        ),
        ({"seed": 2**63}, "seed=9223372036854775808: expected at least 0 and less than 2**63"),
        ({"sampling__temperature": float("inf")}, "sampling.temperature=inf: expected at least 0.001"),
        ({"reward__alpha": float("inf")}, "reward.alpha=inf: expected at least 0"),
        ({"loss__scale_rewards": "row"}, "loss.scale_rewards='row': expected one of ('group', 'batch', 'none')"),
        ({"loss__loss_type": "cispo"}, "loss.loss_type='cispo' needs loss.epsilon_high, the upper bound of the ratio"),
        (
            {"loss__loss_type": "cispo", "loss__epsilon_high": 5.0, "loss__delta": 2.0},
            "loss.delta=2.0 has no effect with loss.loss_type='cispo'; unset it",
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
            "train.save_steps=20 is not a multiple of loss.num_iterations x loss.steps_per_generation=8: a run resumes "
            "at the start of a generation; set 24",
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
        ({"eval__num_problems": -1}, "eval.num_problems=-1: expected at least 0"),
        ({"seed": -1}, "seed=-1: expected at least 0"),
        ({"model__remat": "full"}, "model.remat='full': expected one of ('none', 'dots', 'block', 'offload')"),
        ({"model__lora_r": -1}, "model.lora_r=-1: expected at least 0 (0 trains the parameters themselves)"),
        ({"model__lora_alpha": 8.0}, "model.lora_alpha=8.0 has no effect with model.lora_r=0; set model.lora_r, as 16"),
        (
            {"model__adapter_path": "a/b", "model__path": "c"},
            "model.adapter_path='a/b' has no effect with model.lora_r=0; set model.lora_r, as 16",
        ),
        (
            {"model__adapter_path": "a/b", "model__lora_r": 4},
            "model.adapter_path='a/b' needs model.path, the model that the adapter is of; set it",
        ),
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
            "model.lora_target_modules has 'qkv', which is in the part that model.freeze_vision_tower freezes; unset",
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
            "reward.undecided='wrong' has no effect with reward.backend='strings'; set reward.backend='kernels'",
        ),
        ({"reward__completions": "messages"}, "reward.completions='messages' has no effect without reward.functions"),
        ({"reward__completions": "chat"}, "reward.completions='chat': expected one of ('text', 'messages')"),
        (
            {"train__fused": True},
            "train.fused needs reward.backend='kernels' and reward.undecided='wrong', since the host takes no part;"
            " got 'strings' and 'host'",
        ),
        (
            FUSED | {"loss__dynamic_sample": True},
            "train.fused and loss.dynamic_sample: resampling is decided on the host",
        ),
        (
            FUSED | {"loss__num_iterations": 2},
            "train.fused makes one update of a generation, but loss.num_iterations x loss.steps_per_generation is 2",
        ),
        ({"train__rollout_args": "{}"}, "train.rollout_args='{}' has no effect without train.rollout_func; unset it"),
        (
            FUSED | {"train__rollout_func": "m:f", "loss__soft_punish_cache": 2},
            "train.rollout_func='m:f' does not go with train.fused, loss.soft_punish_cache; unset one or the other",
        ),
        (
            {"train__rollout_func": "m:f", "loss__egsw_level": "step", "loss__steps_per_generation": 2}
            | {"loss__dynamic_sample": True},
            "train.rollout_func='m:f' does not go with loss.dynamic_sample, loss.egsw_level, loss.steps_per",
        ),
        ({"eval__supervised_steps": -1}, "eval.supervised_steps=-1: expected at least 0"),
        ({"sampling__temperature": 0.0}, "sampling.temperature=0.0: expected at least 0.001"),
        ({"sampling__mesh__tensor": 0}, "sampling.mesh.tensor=0: expected at least 1, or -1"),
    ],
)
def test_invalid_configurations_are_refused(changes, text):
    with pytest.raises(ValueError, match="the configuration is invalid") as caught:
        resolve(make_config(**changes))
    assert text in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


def test_one_instruction_only(tmp_path):
    (tmp_path / "cot.txt").write_text("Think first.")
    both = {"data__instruction": "Think first.", "data__instruction_file": str(tmp_path / "cot.txt")}
    with pytest.raises(ValueError, match="data.instruction and data.instruction_file both give the instruction; unset"):
        resolve(make_config(**both))


def test_a_missing_instruction_file_is_refused(tmp_path):
    path = str(tmp_path / "absent.txt")
    with pytest.raises(
        ValueError, match=re.escape(f"data.instruction_file={path!r}: expected a text file in UTF-8, got")
    ):
        resolve(make_config(data__instruction_file=path))


@pytest.mark.parametrize("token", ["<image>", "<|image_pad|>", "<|im_end|>"])
def test_an_instruction_holds_no_special_tokens(token):
    with pytest.raises(ValueError, match=re.escape(f"data.instruction: expected plain text, got {token} in it")):
        resolve(make_config(data__instruction=f"Think {token} first."))


def test_an_instruction_file_is_resolved_to_its_text(tmp_path):
    """So the manifest of a run holds the text: the file may change or go."""
    (tmp_path / "cot.txt").write_text("Think first.\n")
    resolved = resolve(make_config(data__instruction_file=str(tmp_path / "cot.txt")))
    assert (resolved.data.instruction, resolved.data.instruction_file) == ("Think first.", "")


def test_lora_targets_have_this_projects_or_pefts_names():
    for names in (("mlp_0", "mlp_2"), ("mlp.0", "mlp.2"), ("q_proj", "mlp.0", "mlp_0")):
        resolve(make_config(model__lora_r=4, model__lora_target_modules=names))
    frozen = make_config(model__lora_r=4, model__lora_target_modules=("q_proj", "mlp.0"), model__freeze_merger=True)
    with pytest.raises(ValueError, match="has 'mlp_0', which is in the part that model.freeze_merger freezes"):
        resolve(frozen)


def test_sizes_of_the_embedded_task_do_not_limit_other_data():
    resolve(make_config(data__source="some/directory", eval__num_problems=5_000, data__eval_records=6))


def test_presets_are_those_of_the_model():
    for preset in PRESETS:
        resolve(make_config(model__preset=preset))
    with pytest.raises(ValueError, match=re.escape(str(tuple(PRESETS)))):
        resolve(make_config(model__preset="huge"))


def test_all_errors_are_listed_at_once():
    with pytest.raises(ValueError, match=r"model.dtype='int8'[\s\S]*loss.beta=-1.0"):
        resolve(make_config(model__dtype="int8", loss__beta=-1.0))
