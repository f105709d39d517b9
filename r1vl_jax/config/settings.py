"""Every setting of a run, with its default and its meaning."""

from dataclasses import dataclass, field

from r1vl_jax.config.loss import Loss
from r1vl_jax.config.mesh import Mesh


@dataclass(frozen=True)
class Model:
    """Which model, and how it is computed.

    Attributes:
        path: local directory or hub name to read weights, tokenizer and image processor from; "" starts from random
            weights of the size `preset`, with a tokenizer trained on the embedded task.
        preset: name of a size in `models.presets`; used when `path` is empty, and by `r1vl_jax.aot` where `path` is not
            there yet.
        dtype: of the computation, and of frozen parameters; trained ones, softmax and losses are float32 always.
        remat: what the backward pass recomputes, from most to least memory: "none", "dots" (all but the results of
            matrix products), "block" (all inside a layer), "offload" (and layers' inputs wait in the host's memory).
        scan_layers: layers compile as one, in a loop. False has them one after another in the program, which takes
            several times as long to compile; on a GPU scoring and updates are faster then.
        lora_r: rank of the adapters, which alone are trained then; 0 trains the parameters themselves.
        lora_alpha: lora_alpha / lora_r multiplies what an adapter adds.
        lora_target_modules: linear maps that get an adapter, by the names of `LORA_TARGETS` or by PEFT's, which
            calls the merger's "mlp.0" and "mlp.2".
        freeze_vision_tower, freeze_merger, freeze_language_model: keep this part as it is, without adapters.
    """

    path: str = ""
    preset: str = "tiny"
    dtype: str = "float32"
    remat: str = "block"
    scan_layers: bool = True
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
        source: "digits", the embedded task, or a directory of ArrayRecord splits written by this project.
        directory: where the embedded task is written; "" means `WORKDIR/data`.
        difficulty: of the embedded task, 1 (at most 2 digits) to 3 (4 digits, two operators).
        shortcut_fraction: of the embedded task's warm-up records, how many show a path that states the result at once,
            without the steps that lead to it; imitation copies the habit, StepGRPO finds out which path pays.
        vision_pretrain_records: distinct records of single digits to be named, for the alignment; 0 writes none.
        warmup_records: distinct records with a reasoning path, for the warm-up.
        train_records: distinct records without one, for StepGRPO.
        eval_records: held-out problems of the validation and of the test split, each.
        max_prompt_length: tokens, images included; longer prompts are dropped by name and counted, never cut.
        prompt_bucket: prompts of a batch are padded to a multiple of this many tokens.
        vision_shards: rows that the images of each device's part of a batch are dealt to; patches of one row meet in
            attention, so several rows cost less.
        patch_bucket: patches of a row are padded to a multiple of this many.
        min_pixels, max_pixels: images are resized to an area between these.
    """

    source: str = "digits"
    directory: str = ""
    difficulty: int = 2
    shortcut_fraction: float = 0.0
    vision_pretrain_records: int = 0
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
class SamplingMesh:
    """How the trainer's devices share the work of sampling.

    Attributes:
        tensor: devices that hold one copy of the decoder together; it divides the key/value heads. -1 takes the fewest
            whose memory has room for their part, beside what training keeps there. A fused step samples on
            `mesh.tensor` devices.
    """

    tensor: int = -1


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
        slots: completions that are drawn at one time, by all devices; where one ends, the next takes its place. Fewer
            slots than completions need less memory for keys and values, and less time where lengths differ much and
            a step takes longer with more rows. 0 draws all completions at one time.
    """

    num_generations: int = 4
    temperature: float = 1.2
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    max_completion_length: int = 1024
    slots: int = 0
    mesh: SamplingMesh = field(default_factory=SamplingMesh)


@dataclass(frozen=True)
class Reward:
    """Step rewards and user-defined rewards: what is rewarded. Which tokens get the credit is `loss.credit`.

    Attributes:
        semantics: "paper" or "released", the two variants of the definition of StepGRPO's rewards.
        backend: "strings", the definition in Python, or "kernels", the same as array operations on the device.
        undecided: what happens to completions that the kernels leave undecided. "host": they are scored on strings, and
            math-verify decides their answers. "wrong": nothing leaves the device; an answer that only math-verify can
            decide counts as wrong, and a completion beyond the kernels' bounds is scored within them.
        max_bytes_per_token: the kernels read this many bytes times `sampling.max_completion_length`.
        alpha: weight of the matched fraction of key steps in StepRAR; a correct answer counts 1.
        reward_weights: weights of StepRAR (accuracy) and StepRVR (validity).
        functions: user-defined reward functions, each "module:function"; see `rewards.custom`.
        function_weights: one for each.
        num_workers: math-verify's worker processes.
        timeout_s: seconds of processor time after which a worker is killed and the answer counts as wrong.
    """

    semantics: str = "paper"
    backend: str = "strings"
    undecided: str = "host"
    max_bytes_per_token: int = 8
    alpha: float = 0.1
    reward_weights: tuple[float, float] = (1.0, 1.0)
    functions: tuple[str, ...] = ()
    function_weights: tuple[float, ...] = ()
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
class Train:
    """The StepGRPO stage and what both stages share.

    Attributes:
        stages: which stages run, in order: "vision_pretrain" (single digits are named, which ties a fresh vision
            tower to a fresh decoder; pretrained models need none), "warmup" (supervised fine-tuning on reasoning
            paths), "step_grpo".
        prompts_per_update: prompts P of one update; rows are P times `sampling.num_generations`.
        max_steps: updates of StepGRPO.
        fused: sampling, rewards, reference and update as one program, without a word of the host in between.
        completion_bucket: completions are scored and learned from in a width that is a multiple of this many tokens, as
            few as hold the longest one sampled, so that short ones cost less; each width is compiled once. 0, and a
            fused step, take `sampling.max_completion_length`.
        micro_batches: parts an update's rows are split into, one after another; changes memory, not numbers.
        tokens_per_micro_batch: instead, parts are as few as have at most so many tokens of prompts and completions on
            each device, padding included: long ones take more parts than short ones. 0 takes `micro_batches`.
        save_steps: updates between checkpoints; one is written at the end of a stage anyway.
        save_total_limit: checkpoints of a stage that are kept.
        max_skipped_updates: non-finite updates that are skipped before the run stops.
        compile_cache: directory that keeps compiled programs for the next start, of this run or another; "" is none.
            JAX_COMPILATION_CACHE_DIR, where it is set, goes before.
    """

    stages: tuple[str, ...] = ("warmup", "step_grpo")
    prompts_per_update: int = 16
    max_steps: int = 100
    fused: bool = False
    completion_bucket: int = 256
    micro_batches: int = 1
    tokens_per_micro_batch: int = 0
    save_steps: int = 100
    save_total_limit: int = 1
    max_skipped_updates: int = 10
    compile_cache: str = "~/.cache/r1vl_jax"


@dataclass(frozen=True)
class Eval:
    """Greedy accuracy on held-out problems.

    Attributes:
        num_problems: problems of the test split, before, between and after the stages.
        steps: updates of StepGRPO between evaluations on the validation split; 0 is never.
        supervised_steps: the same for the supervised stages.
        num_validation: problems of such an evaluation.
        batch_size: prompts decoded together.
    """

    num_problems: int = 1_000
    steps: int = 0
    supervised_steps: int = 0
    num_validation: int = 200
    batch_size: int = 128

    @property
    def uses_validation_split(self) -> bool:
        """Whether the validation split is read at all."""
        return self.steps > 0 or self.supervised_steps > 0


@dataclass(frozen=True)
class Observe:
    """What is written and printed.

    Attributes:
        log_completions: updates between completions kept as Parquet; 0 is never.
        num_completions_to_print: rows of the console table.
        profile_step: the update of StepGRPO that is traced; `profile/` receives the trace, for XProf or TensorBoard,
            and the share of the time in which devices had nothing to do. 0 is none; the first one compiles.
    """

    log_completions: int = 25
    num_completions_to_print: int = 4
    profile_step: int = 0
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
    vision_pretrain: Supervised = field(default_factory=Supervised)
    warmup: Supervised = field(default_factory=Supervised)
    mesh: Mesh = field(default_factory=Mesh)
    train: Train = field(default_factory=Train)
    eval: Eval = field(default_factory=Eval)
    observe: Observe = field(default_factory=Observe)
