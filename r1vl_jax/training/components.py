"""From a configuration to the objects that a run's stages work with, each built once."""

import dataclasses
from dataclasses import dataclass
from functools import partial

import jax
from transformers import PreTrainedTokenizerBase

from r1vl_jax import config as settings
from r1vl_jax.arrays import BATCH_AXES, Params
from r1vl_jax.checkpoint.hf.load import clear_jit_caches, load_params
from r1vl_jax.checkpoint.model_config import model_config
from r1vl_jax.config import Config, MeshLimits, Optim
from r1vl_jax.data.chat_format import eos_token_ids
from r1vl_jax.data.digits import task
from r1vl_jax.data.images import PIXELS_PER_FEATURE, load_image_processor
from r1vl_jax.data.pipeline import Encoder
from r1vl_jax.data.processor import Processor
from r1vl_jax.data.tokenizer import VISION_TOKENS, byte_table
from r1vl_jax.evaluation.evaluator import Evaluator
from r1vl_jax.learner.learner import Learner
from r1vl_jax.learner.optimizer import optimizer
from r1vl_jax.models.qwen2_vl.config import Config as ModelConfig
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.models.trainable import cast_frozen, combine, make_lora, partition
from r1vl_jax.observe.completions import SCHEMA
from r1vl_jax.rewards import Judge, custom
from r1vl_jax.rewards.weighted_sum import RewardSpec
from r1vl_jax.sampling import methods
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.sampling.tensor_parallel import choose_tensor_parallel_size, device_memory_limit
from r1vl_jax.sharding.global_arrays import local_shards
from r1vl_jax.sharding.mesh import make_mesh
from r1vl_jax.sharding.rules import shardings
from r1vl_jax.training.adapter import initial_adapter
from r1vl_jax.training.completions import decode_completions
from r1vl_jax.training.data_loader import DataLoader
from r1vl_jax.training.dry_run import dry_run
from r1vl_jax.training.inputs import Inputs, preflight
from r1vl_jax.training.metrics import COUNTED, REWARD_PARTS
from r1vl_jax.training.multi_turn.load import load_rollout_function
from r1vl_jax.training.multi_turn.policy import RolloutFunction
from r1vl_jax.training.rewarder import Rewarder


@dataclass(frozen=True)
class Components:
    """What the stages of a run work with; parameters come from `initial_params`.

    Attributes:
        inputs: weights, tokenizer and data, as they were found.
        definition: the model, and its mesh.
        sampler: of training.
        judge: math-verify's workers, which rewarder and evaluator ask; to be closed at the end.
        rollout_func: rolls out several turns; None where a completion is all there is.
        adapter: that training starts from, on the host; None for a new one or none.
    """

    inputs: Inputs
    definition: Definition
    loader: DataLoader
    sampler: Sampler
    rewarder: Rewarder
    evaluator: Evaluator
    judge: Judge
    rollout_func: RolloutFunction | None
    adapter: Params | None


def build_components(config: Config) -> Components:
    """Finds the inputs and builds everything but the parameters.

    Raises:
        FileNotFoundError, ValueError: data or model that are not there or do not fit the configuration.
    """
    reward_spec = make_reward_spec(config)  # the user's own functions are refused before any data is written
    rollout_func = load_rollout_function(config.train)
    inputs = preflight(config)
    sizes = model_config(inputs.model, inputs.tokenizer)  # and with it, whether the tokenizer is the weights' own
    processor = make_processor(config, inputs, sizes)
    mesh = make_mesh(config.mesh, limits=mesh_limits(config, sizes))
    definition = make_definition(config, sizes, mesh, platform=mesh.devices.flat[0].platform)
    adapter = initial_adapter(inputs.model, definition)
    loader = DataLoader(inputs.splits, _make_encoder(config, processor, mesh), mesh, config.seed)
    dry_run(config, loader, reward_spec)  # before anything is compiled
    sampler = make_sampler(
        config,
        definition,
        eos_token_ids=tuple(eos_token_ids(inputs.tokenizer, inputs.model.path or None)),
        forbidden_token_ids=forbidden_token_ids(inputs.tokenizer, sizes.vocab_size),
        memory_bytes=device_memory_limit(mesh),
    )
    judge = Judge(config.reward.num_workers, config.reward.timeout_s)
    rewarder = Rewarder(reward_spec, byte_table(inputs.tokenizer, sizes.vocab_size), judge)
    evaluator = make_evaluator(config, loader=loader, sampler=sampler, rewarder=rewarder, judge=judge)
    return Components(inputs, definition, loader, sampler, rewarder, evaluator, judge, rollout_func, adapter)


def conventions(config: Config, components: Components) -> str:
    """What the model's files and the configuration could each settle, in a line each: sizes of images, end tokens."""
    data, tokenizer = config.data, components.inputs.tokenizer
    ends = [f"{tokenizer.convert_ids_to_tokens(each)} ({each})" for each in components.sampler.eos_token_ids]
    return (
        f"images: {data.min_pixels:,} to {data.max_pixels:,} pixels (data.min_pixels, data.max_pixels), so at most"
        f" {data.max_pixels // PIXELS_PER_FEATURE:,} tokens each\n"
        f"completions end at {' or '.join(ends)}; supervised stages teach {ends[0]}"
    )


def initial_params(
    config: Config, model: settings.Model, definition: Definition, adapter: Params | None = None
) -> Params:
    """Parameters to start from, in the dtypes of `trainable.cast_frozen` and placed by `sharding.rules`.

    Args:
        model: of `Inputs`: its path is a local directory, or "" for random weights.
        adapter: of `Components`.
    """
    key, mesh = jax.random.key(config.seed), definition.mesh
    assert mesh is not None
    if not model.path:
        placement = shardings(definition.abstract_params(), mesh)
        return jax.jit(lambda key: cast_frozen(definition.init(key), model), out_shardings=placement)(key)
    base = definition.base
    placement = shardings(base.abstract_params(), mesh)
    dtype = model.dtype if definition.lora else "float32"
    params = load_params(model.path, base, placement=placement, dtype=dtype)
    clear_jit_caches()  # a run loads once
    if not definition.lora:
        return jax.device_put(cast_frozen(params, model), placement)
    if adapter is None:
        adapter = jax.jit(lambda key: partition(definition.init(key), model)[0])(key)
    return combine(jax.device_put(adapter, shardings(adapter, mesh)), params)


def make_definition(config: Config, sizes: ModelConfig, mesh: jax.sharding.Mesh, *, platform: str) -> Definition:
    """The model as the configuration says, adapters included.

    Args:
        platform: "cpu", "gpu" or "tpu", where the program will run.
    """
    model = config.model
    base = Definition(sizes, model.dtype, model.remat, model.scan_layers, platform, mesh)
    return dataclasses.replace(base, lora=make_lora(base, model))


def make_sampler(
    config: Config,
    definition: Definition,
    *,
    eos_token_ids: tuple[int, ...],
    forbidden_token_ids: tuple[int, ...],
    memory_bytes: float | None,
) -> Sampler:
    """The training sampler.

    Args:
        memory_bytes: of a device; None if unknown.
    """
    s = config.sampling
    return Sampler(
        definition=definition,
        method=methods.from_settings(temperature=s.temperature, top_k=s.top_k, top_p=s.top_p, min_p=s.min_p),
        num_generations=s.num_generations,
        max_length=s.max_completion_length,
        eos_token_ids=eos_token_ids,
        forbidden_token_ids=forbidden_token_ids,
        logp_temperature=s.temperature if config.loss.temperature_in_loss else 1.0,
        slots=s.slots,
        tensor=choose_tensor_parallel_size(config, definition, memory_bytes=memory_bytes),
    )


def make_greedy(sampler: Sampler, *, max_length: int = 0) -> Sampler:
    """The sampler of evaluations: the likeliest token each time, one completion a prompt.

    Args:
        max_length: most tokens of a completion; 0 is that of `sampler`.
    """
    return dataclasses.replace(
        sampler,
        method=methods.Greedy(),
        num_generations=1,
        logp_temperature=1.0,
        max_length=max_length or sampler.max_length,
    )


def make_several(sampler: Sampler, evaluation: settings.Eval) -> Sampler | None:
    """The sampler of evaluations at temperature 1; None without `num_samples`."""
    if not evaluation.num_samples:
        return None
    return dataclasses.replace(
        make_greedy(sampler, max_length=evaluation.max_completion_length),
        method=methods.Temperature(1.0),
        num_generations=evaluation.num_samples,
    )


def forbidden_token_ids(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> tuple[int, ...]:
    """Ids that are never sampled: vision tokens, and rows of the embedding that no token belongs to."""
    id_of_token = tokenizer.get_vocab()
    return (*(id_of_token[token] for token in VISION_TOKENS), *range(len(tokenizer), vocab_size))


def make_learner(config: Config, definition: Definition, *, optim: Optim, max_steps: int, trained: Params) -> Learner:
    """The learner of a stage with these optimizer settings and `max_steps`.

    Args:
        trained: the parameters that the stage trains, or their shapes.
    """
    return Learner(
        definition=definition,
        optimizer=optimizer(optim, max_steps, trained, platform=definition.platform),
        chunk_size=config.loss.logp_chunk_size,
        temperature=config.sampling.temperature if config.loss.temperature_in_loss else 1.0,
        micro_batches=config.train.min_micro_batches,
        tokens_per_micro_batch=config.train.tokens_per_micro_batch,
        gradient_cosine=config.train.gradient_cosine,
        loss=config.loss,
    )


def make_evaluator(
    config: Config, *, loader: DataLoader, sampler: Sampler, rewarder: Rewarder, judge: Judge
) -> Evaluator:
    """Greedy evaluation on the test and validation splits."""
    batches = partial(loader.eval_batches, batch_size=config.eval.batch_size)
    functions = rewarder.spec.functions
    has_host_functions = bool(functions) and not any(function.runs_on_device for function in functions)
    return Evaluator(
        sampler=make_greedy(sampler, max_length=config.eval.max_completion_length),
        several=make_several(sampler, config.eval),
        process_local_rows=loader.process_local_rows,
        decode_completions=partial(decode_completions, vocabulary=rewarder.vocabulary),
        test=partial(batches, "test", num_records=config.eval.num_problems),
        validation=partial(batches, "validation", num_records=config.eval.num_validation),
        digit_recognition=task.recognized_digits if config.data.source == "digits" else None,
        judge=judge,
        semantics=config.reward.semantics,
        hard_kinds=config.eval.hard_kinds,
        total_reward=rewarder.total if has_host_functions else None,
    )


def mesh_limits(config: Config, sizes: ModelConfig) -> MeshLimits:
    """What a run divides over its devices: its batches, and the heads of its model."""
    supervised = [stage for stage in ("vision_pretrain", "warmup") if stage in config.train.stages]
    batches = {f"{stage}.batch_size": getattr(config, stage).batch_size for stage in supervised}
    rows = dict(batches)
    if config.eval.is_used:
        batches["eval.batch_size"] = config.eval.batch_size
    if "step_grpo" in config.train.stages:
        batches["train.prompts_per_update"] = config.train.prompts_per_update
        rows["rows of an update"] = config.train.prompts_per_update * config.sampling.num_generations
    if config.sampling.slots:
        batches["sampling.slots"] = config.sampling.slots
    if (num_parts := config.train.min_micro_batches) > 1:
        divisor = "train.micro_batches" if config.train.micro_batches > 1 else "2 (train.gradient_cosine)"
        batches |= {f"{name} / {divisor}": size // num_parts for name, size in rows.items()}
    heads = {
        "num_attention_heads": sizes.num_attention_heads,
        "num_key_value_heads": sizes.num_key_value_heads,
        "vision.num_heads": sizes.vision.num_heads,
    }
    return MeshLimits(batches, heads)


def make_reward_spec(config: Config) -> RewardSpec:
    """The rewards and their weights, functions of the user's own included.

    Raises:
        ValueError: a function cannot be used; says why.
    """
    reward = config.reward
    functions = custom.load(
        reward.functions,
        reward.function_weights,
        taken=(*SCHEMA.names, *COUNTED, *REWARD_PARTS),
        completions=reward.completions,
    )
    if config.train.fused and (on_host := [function.name for function in functions if not function.runs_on_device]):
        raise ValueError(
            f"train.fused: reward functions {', '.join(on_host)} run on the host; write them as functions of arrays"
            " (see r1vl_jax.rewards.custom), or unset train.fused"
        )
    if reward.completions == "messages" and functions and all(function.runs_on_device for function in functions):
        raise ValueError("reward.completions='messages' has no effect on functions of the device; unset it")
    return RewardSpec(reward, functions)


def make_processor(config: Config, inputs: Inputs, sizes: ModelConfig) -> Processor:
    """The tokenizer, and the image processor with the limits of the configuration.

    Raises:
        ValueError: the image processor is not the model's.
    """
    limits = {"min_pixels": config.data.min_pixels, "max_pixels": config.data.max_pixels}
    image_processor = load_image_processor(inputs.model.path, **limits)
    return Processor(inputs.tokenizer, image_processor, tokens_per_second=sizes.vision.tokens_per_second)


def _make_encoder(config: Config, processor: Processor, mesh: jax.sharding.Mesh) -> Encoder:
    data = config.data
    return Encoder(
        processor,
        max_prompt_length=data.max_prompt_length,
        prompt_bucket=data.prompt_bucket,
        patch_bucket=data.patch_bucket,
        vision_shards=data.vision_shards * len(local_shards(mesh, BATCH_AXES)),
        instruction=data.instruction,
    )
