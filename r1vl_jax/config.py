"""Every setting of the project, with its default, in one place; and the refusal of settings that contradict each other.

A recipe in `configs/` calls `default()`, changes what it needs and returns the result. `resolve()` turns that editable
tree into frozen dataclasses and refuses, before any device is touched, what cannot work.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ml_collections import ConfigDict, config_dict

from r1vl_jax import config_loss
from r1vl_jax.config_loss import Loss


@dataclass(frozen=True)
class Model:
    """Which model, and how it is computed.

    Attributes:
        path: local directory or hub name to read weights, tokenizer and image processor from; "" starts from random
            weights of the size `preset`, with a tokenizer trained on the embedded task.
        preset: name of a size in `models.presets`; used only when `path` is empty.
        dtype: of the computation, and of frozen parameters; trained ones, softmax and losses are float32 always.
        remat: what the backward pass recomputes, from most to least memory: "none", "dots" (all but the results of
            matrix products), "block" (all inside a layer), "offload" (and layers' inputs wait in the host's memory).
        lora_r: rank of the adapters, which alone are trained then; 0 trains the parameters themselves.
        lora_alpha: lora_alpha / lora_r multiplies what an adapter adds.
        lora_target_modules: linear maps that get an adapter, by the names of `LORA_TARGETS`, as in PEFT.
        freeze_vision_tower, freeze_merger, freeze_language_model: keep this part as it is, without adapters.
    """

    path: str = ""
    preset: str = "tiny"
    dtype: str = "float32"
    remat: str = "block"
    lora_r: int = 0
    lora_alpha: float = 32.0
    lora_target_modules: tuple[str, ...] = ("q_proj", "v_proj")
    freeze_vision_tower: bool = False
    freeze_merger: bool = False
    freeze_language_model: bool = False


@dataclass(frozen=True)
class Data:
    """Where records come from and how large a prompt may be.

    Attributes:
        source: "handwriting", the embedded task, or a directory of ArrayRecord splits written by this project.
        directory: where the embedded task is written; "" means `WORKDIR/data`.
        difficulty: of the embedded task, 1 (at most 2 digits) to 3 (4 digits, two operators).
        hasty_share: of the embedded task's warm-up records, how many show a path that states the result at once,
            without the steps that lead to it; imitation copies the habit, StepGRPO finds out which path pays.
        alignment_records: distinct records of single digits to be named, for the alignment; 0 writes none.
        warmup_records: distinct records with a reasoning path, for the warm-up.
        train_records: distinct records without one, for StepGRPO.
        eval_records: held-out problems of the validation and of the test split, each.
        max_prompt_length: tokens, images included; longer prompts are dropped by name and counted, never cut.
        prompt_bucket: prompts of a batch are padded to a multiple of this many tokens.
        vision_shards: rows that the images of a batch are dealt to; patches of one row meet in attention, so several
            rows cost less.
        patch_bucket: patches of a row are padded to a multiple of this many.
        min_pixels, max_pixels: images are resized to an area between these.
    """

    source: str = "handwriting"
    directory: str = ""
    difficulty: int = 2
    hasty_share: float = 0.0
    alignment_records: int = 0
    warmup_records: int = 2_000
    train_records: int = 10_000
    eval_records: int = 1_000
    max_prompt_length: int = 1024
    prompt_bucket: int = 64
    vision_shards: int = 1
    patch_bucket: int = 512
    min_pixels: int = 28 * 28
    max_pixels: int = 400_000


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    Attributes:
        num_generations: samples G per prompt.
        temperature: divides the logits before drawing; greater than 0.
        top_k: draw among the k likeliest tokens only; 0 is off.
        top_p: draw among the fewest tokens whose probability reaches p only; 1 is off.
        min_p: draw among tokens at least this fraction as likely as the likeliest only; 0 is off.
        max_completion_length: tokens, the end-of-sequence token included.
    """

    num_generations: int = 4
    temperature: float = 1.2
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    max_completion_length: int = 1024


@dataclass(frozen=True)
class Reward:
    """What a completion earns.

    Attributes:
        semantics: "paper" or "released", the two readings of StepGRPO's rewards.
        backend: "reference", the definition on strings, or "kernels", the same as array operations on the device; what
            these leave undecided goes to the reference.
        alpha: worth of all key steps together, the correct answer being 1.
        reward_weights: of StepRAR (accuracy) and StepRVR (validity).
        num_workers: processes that answer what needs math-verify.
        timeout_s: after which a worker is killed and the answer counts as wrong.
    """

    semantics: str = "paper"
    backend: str = "reference"
    alpha: float = 0.1
    reward_weights: tuple[float, float] = (1.0, 1.0)
    num_workers: int = 1
    timeout_s: float = 5.0


@dataclass(frozen=True)
class Optim:
    """AdamW and its schedule.

    Attributes:
        learning_rate: peak, reached after `warmup_ratio` of the updates.
        lr_scheduler_type: "linear" or "cosine" to zero, or "constant".
        weight_decay: on matrices only; norms, biases and embeddings are spared.
        max_grad_norm: global norm above which gradients are scaled down.
    """

    learning_rate: float = 1e-6
    lr_scheduler_type: str = "linear"
    warmup_ratio: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    adam_b1: float = 0.9
    adam_b2: float = 0.999
    adam_epsilon: float = 1e-8


@dataclass(frozen=True)
class Supervised:
    """A supervised stage: imitation of written responses, loss on the response only.

    Attributes:
        max_steps: updates; at least 1 if the stage is run.
        batch_size: records of an update.
    """

    max_steps: int = 0
    batch_size: int = 128
    optim: Optim = field(
        default_factory=lambda: Optim(learning_rate=1e-5, lr_scheduler_type="cosine", warmup_ratio=0.03)
    )


@dataclass(frozen=True)
class Mesh:
    """Devices along each axis; -1 takes all that are left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclass(frozen=True)
class Train:
    """The StepGRPO stage and what both stages share.

    Attributes:
        stages: which stages run, in order: "alignment" (single digits are named, which ties a fresh vision tower to a
            fresh decoder; pretrained models need none), "warmup" (reasoning paths are imitated), "step_grpo".
        prompts_per_update: prompts P of one update; rows are P times `sampling.num_generations`.
        max_steps: updates of StepGRPO.
        micro_batches: parts an update's rows are split into, one after another; changes memory, not numbers.
        save_steps: updates between checkpoints; one is written at the end of a stage anyway.
        save_total_limit: checkpoints of a stage that are kept.
        max_skipped_updates: non-finite updates that are skipped before the run stops.
    """

    stages: tuple[str, ...] = ("warmup", "step_grpo")
    prompts_per_update: int = 16
    max_steps: int = 100
    micro_batches: int = 1
    save_steps: int = 100
    save_total_limit: int = 1
    max_skipped_updates: int = 10


@dataclass(frozen=True)
class Eval:
    """Greedy accuracy on held-out problems.

    Attributes:
        num_problems: problems of the test split, before, between and after the stages.
        steps: updates between evaluations on the validation split; 0 is never.
        num_validation: problems of such an evaluation.
        batch_size: prompts decoded together.
    """

    num_problems: int = 1_000
    steps: int = 0
    num_validation: int = 200
    batch_size: int = 128


@dataclass(frozen=True)
class Observe:
    """What is written and printed.

    Attributes:
        log_completions: updates between completions kept as Parquet; 0 is never.
        num_completions_to_print: rows of the console table.
    """

    log_completions: int = 25
    num_completions_to_print: int = 4
    tensorboard: bool = True
    progress: bool = True
    report: bool = True


@dataclass(frozen=True)
class Config:
    """A whole run. `workdir` receives everything; started again with the same configuration, the run resumes."""

    workdir: str = ""
    seed: int = 0
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    sampling: Sampling = field(default_factory=Sampling)
    reward: Reward = field(default_factory=Reward)
    loss: Loss = field(default_factory=Loss)
    optim: Optim = field(default_factory=Optim)
    alignment: Supervised = field(default_factory=Supervised)
    warmup: Supervised = field(default_factory=Supervised)
    mesh: Mesh = field(default_factory=Mesh)
    train: Train = field(default_factory=Train)
    eval: Eval = field(default_factory=Eval)
    observe: Observe = field(default_factory=Observe)


def default() -> ConfigDict:
    """The default configuration, to be changed by a recipe. Unknown keys are refused with the nearest known one."""
    return _to_config_dict(Config()).lock()


def unknown_settings(arguments: Iterable[str]) -> Iterator[str]:
    """One sentence for each argument `--config.SECTION.KEY=VALUE` that names no setting: what there is instead."""
    for argument in arguments:
        if argument.startswith("--config."):
            name = argument.removeprefix("--config.").split("=")[0].split("[")[0]
            yield from _unknown(Config(), "config", name.split("."))


def _unknown(node: Any, path: str, keys: list[str]) -> Iterator[str]:
    known = [f.name for f in dataclasses.fields(node)] if dataclasses.is_dataclass(node) else []
    if keys and keys[0] in known:
        yield from _unknown(getattr(node, keys[0]), f"{path}.{keys[0]}", keys[1:])
    elif keys:
        near = difflib.get_close_matches(keys[0], known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        yield f"{path}.{keys[0]}: no such setting; {hint}{path} has {', '.join(known) or 'no parts'}"


def resolve(config: ConfigDict) -> Config:
    """The frozen form of a configuration.

    Raises:
        ValueError: lists every setting that is out of range or contradicts another, with what would do.
    """
    resolved = _from_config_dict(Config, config, "config")
    faults = list(contradictions(resolved))
    if faults:
        raise ValueError("the configuration cannot work:\n  " + "\n  ".join(faults))
    return resolved


def contradictions(config: Config) -> Iterator[str]:
    """One sentence for each setting that cannot work: what, expected, got, what to do."""
    yield from _out_of_range(config)
    yield from _nothing_to_train(config.model)
    yield from config_loss.contradictions(config)
    rows = config.train.prompts_per_update * config.sampling.num_generations
    if config.sampling.num_generations < 2:
        yield (
            f"sampling.num_generations={config.sampling.num_generations}: a group needs at least 2 samples to be"
            " compared; set 4"
        )
    if config.train.micro_batches < 1 or config.train.prompts_per_update % max(config.train.micro_batches, 1):
        yield (
            f"train.micro_batches={config.train.micro_batches} does not divide train.prompts_per_update="
            f"{config.train.prompts_per_update} ({rows} rows); set one of {_divisors(config.train.prompts_per_update)}"
        )
    if config.data.min_pixels > config.data.max_pixels:
        yield f"data.min_pixels={config.data.min_pixels} is more than data.max_pixels={config.data.max_pixels}"
    if config.data.max_prompt_length % config.data.prompt_bucket:
        yield (
            f"data.max_prompt_length={config.data.max_prompt_length} is no multiple of data.prompt_bucket="
            f"{config.data.prompt_bucket}; set one that is"
        )
    for stage in ("alignment", "warmup"):
        if stage in config.train.stages:
            yield from _contradictions_of_supervised(config, stage)
    if config.data.source == "handwriting":
        yield from _contradictions_of_handwriting(config)


def _contradictions_of_supervised(config: Config, stage: str) -> Iterator[str]:
    settings = getattr(config, stage)
    if settings.max_steps < 1:
        yield f"train.stages has {stage!r} but {stage}.max_steps is {settings.max_steps}; set it, or drop the stage"
    if settings.batch_size % max(config.train.micro_batches, 1):
        yield (
            f"train.micro_batches={config.train.micro_batches} does not divide {stage}.batch_size="
            f"{settings.batch_size}; set one of {_divisors(settings.batch_size)}"
        )


def _contradictions_of_handwriting(config: Config) -> Iterator[str]:
    """What the sizes of the embedded task rule out; a directory of records says its own when it is read."""
    for name in ("num_problems", "num_validation") if config.eval.steps else ("num_problems",):
        if (wanted := getattr(config.eval, name)) > config.data.eval_records:
            yield f"eval.{name}={wanted} exceeds data.eval_records={config.data.eval_records}"
    for stage in {"alignment", "warmup"} & set(config.train.stages):
        batch_size, num_records = getattr(config, stage).batch_size, getattr(config.data, f"{stage}_records")
        if batch_size > num_records:
            yield (
                f"{stage}.batch_size={batch_size} exceeds data.{stage}_records={num_records};"
                " an epoch must hold a batch"
            )


_STAGES = ("alignment", "warmup", "step_grpo")

_CHOICES = {
    "model.preset": ("tiny", "2b", "7b", "72b", "2.5-tiny", "2.5-3b", "2.5-7b", "2.5-72b"),
    "model.dtype": ("float32", "bfloat16"),
    "model.remat": ("none", "dots", "block", "offload"),
    "reward.semantics": ("paper", "released"),
    "reward.backend": ("reference", "kernels"),
    "optim.lr_scheduler_type": ("linear", "cosine", "constant"),
    "alignment.optim.lr_scheduler_type": ("linear", "cosine", "constant"),
    "warmup.optim.lr_scheduler_type": ("linear", "cosine", "constant"),
    "data.difficulty": (1, 2, 3),
} | config_loss.CHOICES

_Range = tuple[str, Callable[[Any], Any], str]  # setting, test, what is expected

# Settings of an optimizer.
_OPTIM_RANGES: tuple[_Range, ...] = (
    ("learning_rate", lambda x: 0 < x < math.inf, "more than 0"),
    ("warmup_ratio", lambda x: 0 <= x <= 1, "in [0, 1]"),
    ("weight_decay", lambda x: x >= 0, "at least 0"),
    ("max_grad_norm", lambda x: x > 0, "more than 0"),
    ("adam_b1", lambda x: 0 <= x < 1, "in [0, 1)"),
    ("adam_b2", lambda x: 0 <= x < 1, "in [0, 1)"),
    ("adam_epsilon", lambda x: x > 0, "more than 0"),
)
_AT_LEAST_0 = (
    *("seed", "sampling.top_k", "reward.alpha", "eval.steps", "train.max_skipped_updates"),
    "data.alignment_records",
    *("observe.log_completions", "observe.num_completions_to_print"),
)
_AT_LEAST_1 = (
    *("sampling.max_completion_length", "reward.num_workers"),
    *("alignment.batch_size", "warmup.batch_size"),
    *("train.prompts_per_update", "train.save_steps", "train.save_total_limit", "train.max_steps"),
    *("eval.batch_size", "eval.num_problems", "eval.num_validation", "data.warmup_records", "data.train_records"),
    *("data.eval_records", "data.max_prompt_length", "data.prompt_bucket", "data.vision_shards", "data.min_pixels"),
)

_RANGES: tuple[_Range, ...] = (
    ("model.lora_r", lambda x: x >= 0, "at least 0, which trains the parameters themselves"),
    ("model.lora_alpha", lambda x: x > 0, "more than 0"),
    ("sampling.temperature", lambda x: x > 0, "more than 0 (greedy decoding is for evaluation)"),
    ("sampling.top_p", lambda x: 0 < x <= 1, "in (0, 1]"),
    ("sampling.min_p", lambda x: 0 <= x <= 1, "in [0, 1]"),
    ("reward.timeout_s", lambda x: x > 0, "more than 0"),
    ("reward.reward_weights", lambda x: len(x) == 2 and all(isinstance(w, float | int) for w in x), "two numbers"),
    *config_loss.RANGES,
    ("data.hasty_share", lambda x: 0 <= x <= 1, "in [0, 1]"),
    ("data.patch_bucket", lambda x: x >= 4 and x % 4 == 0, "a multiple of 4"),
    ("train.stages", lambda x: x and list(x) == [s for s in _STAGES if s in x], f"some of {_STAGES}, in this order"),
    ("workdir", lambda x: x, "a directory that receives the run (--config.workdir=DIR)"),
    *((name, lambda x: x >= 0, "at least 0") for name in _AT_LEAST_0),
    *((name, lambda x: x >= 1, "at least 1") for name in _AT_LEAST_1),
    *(
        (f"{part}.{name}", is_fine, expected)
        for part in ("optim", "alignment.optim", "warmup.optim")
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


# The names of linear maps in each part, over all architectures. The model itself refuses one that it does not have.
LORA_TARGETS = {
    "freeze_language_model": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "freeze_vision_tower": ("qkv", "proj", "fc1", "fc2", "gate_proj", "up_proj", "down_proj"),
    "freeze_merger": ("mlp_0", "mlp_2"),
}


def _nothing_to_train(model: Model) -> Iterator[str]:
    """Adapters without a place, settings of adapters without adapters, and everything frozen."""
    if all(getattr(model, setting) for setting in LORA_TARGETS):
        yield f"{', '.join(f'model.{setting}' for setting in LORA_TARGETS)} leave nothing to train; unset one of them"
    elif model.lora_r > 0:
        yield from _targets_without_a_place(model)
    for name in ("lora_alpha", "lora_target_modules"):
        if model.lora_r == 0 and getattr(model, name) != getattr(Model(), name):
            yield f"model.{name}={getattr(model, name)!r} does nothing with model.lora_r=0; set model.lora_r, as 16"


def _targets_without_a_place(model: Model) -> Iterator[str]:
    known = {name for names in LORA_TARGETS.values() for name in names}
    if not model.lora_target_modules:
        yield f"model.lora_target_modules is empty but model.lora_r={model.lora_r}; set some of {sorted(known)}"
    for name in model.lora_target_modules:
        freezers = [setting for setting, names in LORA_TARGETS.items() if name in names]
        if not freezers:
            yield f"model.lora_target_modules has {name!r}: expected some of {sorted(known)}"
        elif all(getattr(model, setting) for setting in freezers):
            yield (
                f"model.lora_target_modules has {name!r}, which stands in what"
                f" {' and '.join(f'model.{setting}' for setting in freezers)} freezes; drop one of them"
            )


def _get(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _to_config_dict(node: Any) -> ConfigDict:
    return ConfigDict(
        {
            name: _to_config_dict(value) if dataclasses.is_dataclass(value) else _editable(value, annotation)
            for name, annotation in typing.get_type_hints(type(node)).items()
            for value in [getattr(node, name)]
        }
    )


def _editable(value: Any, annotation: Any) -> Any:
    """The value; for a setting that may be None, a None that remembers which type it may become."""
    return config_dict.placeholder(_not_none(annotation)) if value is None else value


def _not_none(annotation: Any) -> Any:
    """`float` of `float | None`, and every other annotation as it is."""
    if types.NoneType not in typing.get_args(annotation):
        return annotation
    return next(kind for kind in typing.get_args(annotation) if kind is not types.NoneType)


def _from_config_dict(cls: Any, node: Any, path: str) -> Any:
    """Rebuilds a dataclass; a value of another type than the default's is an error that names the setting."""
    values = {}
    for name, annotation in typing.get_type_hints(cls).items():
        value = node[name]
        if dataclasses.is_dataclass(annotation):
            values[name] = _from_config_dict(annotation, value, f"{path}.{name}")
        else:
            values[name] = _typed(value, annotation, f"{path}.{name}")
    return cls(**values)


def _typed(value: Any, annotation: Any, name: str) -> Any:
    if value is None and _not_none(annotation) is not annotation:
        return None
    annotation = _not_none(annotation)
    kind = typing.get_origin(annotation) or annotation
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is tuple and isinstance(value, list):
        return tuple(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{name}={value!r}: expected {annotation}, got {type(value).__name__}")
    return value
