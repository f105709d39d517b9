"""From a configuration to the parts of a run: data, tokenizer, model, samplers."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
from transformers import PreTrainedTokenizerBase

from r1vl_jax.arrays import BATCH_AXES, Bundle, Completions, Params, PromptBatch
from r1vl_jax.checkpoint.hf.directory import local_directory
from r1vl_jax.checkpoint.hf.load import clear_jit_caches, load_params
from r1vl_jax.checkpoint.model_config import model_config
from r1vl_jax.config import Config, MeshLimits, Optim
from r1vl_jax.data import pipeline
from r1vl_jax.data.digits import task
from r1vl_jax.data.images import load_image_processor
from r1vl_jax.data.pipeline import Encoder
from r1vl_jax.data.process_shards import ProcessStream, to_process_shard
from r1vl_jax.data.prompts import EncodedPrompt, Processor
from r1vl_jax.data.records import Record, Split, open_split
from r1vl_jax.data.tokenizer import VISION_TOKENS, byte_table, eos_token_ids
from r1vl_jax.evaluation.evaluator import Evaluator
from r1vl_jax.learner.learner import Learner, TrainState
from r1vl_jax.learner.optimizer import optimizer
from r1vl_jax.models.qwen2_vl import config as model_sizes
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.models.trainable import cast_frozen, combine, make_lora, partition
from r1vl_jax.observe.completions import SCHEMA
from r1vl_jax.rewards import Judge, custom
from r1vl_jax.rewards.text import Vocabulary, host_bytes
from r1vl_jax.rewards.weighted_sum import RewardSpec
from r1vl_jax.runtime import processes
from r1vl_jax.sampling import methods
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.sampling.tensor_parallel import choose_tensor, device_memory
from r1vl_jax.sharding.batch import batch_sharding, shard_batch
from r1vl_jax.sharding.global_arrays import Tree, local_shards, process_local_rows
from r1vl_jax.sharding.mesh import make_mesh
from r1vl_jax.sharding.rules import shardings
from r1vl_jax.training.inputs import _data_directory, _splits, _tokenizer, preflight
from r1vl_jax.training.metrics import COUNTED, REWARD_PARTS


@dataclass(frozen=True)
class Components:
    """What a run is made of. Everything but the parameters, which come from `initial_params`."""

    config: Config
    data_directory: Path
    tokenizer: PreTrainedTokenizerBase
    encoder: Encoder
    definition: Definition
    eos_token_ids: tuple[int, ...]
    reward_spec: RewardSpec

    @property
    def data_fingerprint(self) -> str:
        """Digest of the records' files."""
        digest = hashlib.sha256()
        for path in sorted(self.data_directory.glob("*array_record*")):
            with path.open("rb") as file:
                digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def initial_params(self) -> Params:
        """Parameters to start from, in the dtypes of `trainable.stored` and placed by the table of `sharding`."""
        model, key, mesh = self.config.model, jax.random.key(self.config.seed), self.mesh
        if not model.path:
            placement = shardings(self.definition.abstract_params(), mesh)
            return jax.jit(lambda key: cast_frozen(self.definition.init(key), model), out_shardings=placement)(key)
        base = self.definition.base
        placement = shardings(base.abstract_params(), mesh)
        dtype = model.dtype if self.definition.lora else "float32"
        params = load_params(model.path, base, placement=placement, dtype=dtype)
        clear_jit_caches()  # a run loads once
        if not self.definition.lora:
            return jax.device_put(cast_frozen(params, model), placement)
        adapter = jax.jit(lambda key: partition(self.definition.init(key), model)[0])(key)
        return combine(jax.device_put(adapter, shardings(adapter, mesh)), params)

    def shard_state(self, state: TrainState) -> TrainState:
        """Puts every leaf of a fresh state where updates leave it, so that the second update need not be compiled."""
        return jax.device_put(state, shardings(state, self.mesh))

    @property
    def mesh(self) -> jax.sharding.Mesh:
        """The devices."""
        assert self.definition.mesh is not None
        return self.definition.mesh

    def shard_batch(self, batch: Bundle) -> Bundle:
        """Gives each device its rows of a batch, and its images."""
        return shard_batch(batch, self.mesh)

    def process_local_rows(self, tree: Tree) -> Tree:
        """The rows that this process gave, of arrays whose first axis is rows; all processes must call this."""
        return process_local_rows(tree, batch_sharding("B", self.mesh))

    def batch(self, encoded: Sequence[EncodedPrompt]) -> PromptBatch:
        """Prompts of this process, as its share of a batch."""
        return self._share(self.encoder.batch(encoded))

    def _share(self, prompts: PromptBatch) -> PromptBatch:
        return to_process_shard(prompts, own_shards=local_shards(self.mesh, BATCH_AXES))

    def split(self, name: str) -> Split:
        return open_split(self.data_directory, name)

    def supervised_stream(self, split: str, batch_size: int) -> ProcessStream:
        stream = pipeline.supervised_stream(
            self.split(split),
            self.encoder,
            batch_size=batch_size // processes.count(),
            seed=self.config.seed,
            max_completion_length=self.config.sampling.max_completion_length,
        )
        return ProcessStream(stream, lambda batch: dataclasses.replace(batch, prompts=self._share(batch.prompts)))

    def prompt_stream(self) -> ProcessStream:
        stream = pipeline.prompt_stream(
            self.split("train"),
            self.encoder,
            batch_size=self.config.train.prompts_per_update // processes.count(),
            seed=self.config.seed,
        )
        return ProcessStream(stream, lambda batch: (batch[0], self._share(batch[1])))

    def eval_batches(self, split: str, num_problems: int) -> Iterator[tuple[list[Record], PromptBatch]]:
        batch_size = self.config.eval.batch_size // processes.count()
        source = self.split(split)
        for kept, prompts in pipeline.eval_batches(
            source, self.encoder, batch_size=batch_size, num_records=num_problems
        ):
            yield kept, self.shard_batch(self._share(prompts))

    def sampler(self) -> Sampler:
        """Draws as the configuration says, for training."""
        return make_sampler(
            self.config,
            self.definition,
            eos_token_ids=self.eos_token_ids,
            forbidden_token_ids=self._forbidden_token_ids(),
            memory_bytes=device_memory(self.mesh),
        )

    def greedy_sampler(self) -> Sampler:
        """Takes the likeliest token each time, once a prompt, for evaluation."""
        return dataclasses.replace(
            self.sampler(), method=methods.Greedy(), num_generations=1, temperature_in_report=1.0
        )

    def decode_completions(self, completions: Completions) -> list[str]:
        """Completions as strings, without special tokens; bytes that are no UTF-8 become replacement characters."""
        rows = host_bytes(completions.token_BT, completions.mask_BT, self.vocabulary)
        return [row.decode("utf-8", "replace") for row in rows]

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """The bytes of every token."""
        return byte_table(self.tokenizer, self.definition.config.vocab_size)

    def _forbidden_token_ids(self) -> tuple[int, ...]:
        """Vision tokens, and rows of the embedding that no token belongs to."""
        config = self.definition.config
        id_of_token = self.tokenizer.get_vocab()
        vision = (id_of_token[token] for token in VISION_TOKENS)
        return (*vision, *range(len(self.tokenizer), config.vocab_size))


def build_components(config: Config) -> Components:
    """Writes the embedded task's data if there is none, and reads or makes tokenizer and model definition.

    Raises:
        FileNotFoundError, ValueError: data or model that are not there or do not fit the configuration.
    """
    preflight(config)
    scheme = make_reward_spec(config)
    with processes.main_process_first():
        directory = _data_directory(config)
        for split in _splits(config):
            open_split(directory, split)  # what is missing is missed now, not after hours of training
        tokenizer = _tokenizer(config, directory)
    sizes = model_config(config.model, tokenizer)  # and with it, whether the tokenizer is the one of the weights
    mesh = make_mesh(config.mesh, limits=mesh_limits(config, sizes))
    image_processor = load_image_processor(
        config.model.path, min_pixels=config.data.min_pixels, max_pixels=config.data.max_pixels
    )
    encoder = Encoder(
        Processor(tokenizer, image_processor),
        max_prompt_length=config.data.max_prompt_length,
        prompt_bucket=config.data.prompt_bucket,
        patch_bucket=config.data.patch_bucket,
        vision_shards=config.data.vision_shards * len(local_shards(mesh, BATCH_AXES)),
    )
    definition = make_definition(config, sizes, mesh, platform=mesh.devices.flat[0].platform)
    weights = local_directory(config.model.path) if config.model.path else None
    ends = tuple(eos_token_ids(tokenizer, weights))
    return Components(config, directory, tokenizer, encoder, definition, ends, scheme)


def make_definition(config: Config, sizes: model_sizes.Config, mesh: jax.sharding.Mesh, *, platform: str) -> Definition:
    """The model as the configuration says, adapters included.

    Args:
        platform: "cpu", "gpu" or "tpu", where the program will run.
    """
    settings = config.model
    base = Definition(sizes, settings.dtype, settings.remat, settings.scan_layers, platform, mesh)
    return dataclasses.replace(base, lora=make_lora(base, config.model))


def make_sampler(
    config: Config,
    definition: Definition,
    *,
    eos_token_ids: tuple[int, ...],
    forbidden_token_ids: tuple[int, ...],
    memory_bytes: float | None,
) -> Sampler:
    """Draws as the configuration says, for training.

    Args:
        memory_bytes: of a device; None where it is not known.
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
        tensor=choose_tensor(config, definition, memory_bytes=memory_bytes),
    )


def make_learner(config: Config, definition: Definition, *, optim: Optim, max_steps: int, trained: Params) -> Learner:
    """Updates as the configuration says, in the stage that has these settings and so many updates.

    Args:
        trained: the parameters that the stage trains, or their shapes.
    """
    return Learner(
        definition=definition,
        optimizer=optimizer(optim, max_steps, trained, platform=definition.platform),
        chunk_size=config.loss.logp_chunk_size,
        temperature=config.sampling.temperature if config.loss.temperature_in_loss else 1.0,
        micro_batches=config.train.micro_batches,
        tokens_per_micro_batch=config.train.tokens_per_micro_batch,
        loss=config.loss,
    )


def make_evaluator(parts: Components, judge: Judge) -> Evaluator:
    """Greedy evaluation on the test and validation splits."""
    config = parts.config
    return Evaluator(
        sampler=parts.greedy_sampler(),
        own_rows=parts.process_local_rows,
        texts=parts.decode_completions,
        test=lambda: parts.eval_batches("test", config.eval.num_problems),
        validation=lambda: parts.eval_batches("validation", config.eval.num_validation),
        reading=task.reading_accuracy if config.data.source == "digits" else None,
        judge=judge,
        semantics=config.reward.semantics,
    )


def mesh_limits(config: Config, sizes: model_sizes.Config) -> MeshLimits:
    """What a run divides over its devices: its batches, and the heads of its model."""
    supervised = [stage for stage in ("vision_pretrain", "warmup") if stage in config.train.stages]
    batches = {f"{stage}.batch_size": getattr(config, stage).batch_size for stage in supervised}
    rows = dict(batches)
    batches["eval.batch_size"] = config.eval.batch_size
    if "step_grpo" in config.train.stages:
        batches["train.prompts_per_update"] = config.train.prompts_per_update
        rows["rows of an update"] = config.train.prompts_per_update * config.sampling.num_generations
    if config.sampling.slots:
        batches["sampling.slots"] = config.sampling.slots
    if config.train.micro_batches > 1:
        batches |= {f"{name} / train.micro_batches": size // config.train.micro_batches for name, size in rows.items()}
    heads = {
        "num_attention_heads": sizes.num_attention_heads,
        "num_key_value_heads": sizes.num_key_value_heads,
        "vision.num_heads": sizes.vision.num_heads,
    }
    return MeshLimits(batches, heads)


def make_reward_spec(config: Config) -> RewardSpec:
    """The rewards and their weights, functions of the user's own included."""
    settings = config.reward
    functions = custom.load(
        settings.functions, settings.function_weights, taken=(*SCHEMA.names, *COUNTED, *REWARD_PARTS)
    )
    if config.train.fused and (on_host := [function.name for function in functions if not function.runs_on_device]):
        raise ValueError(
            f"train.fused: reward functions {', '.join(on_host)} run on the host; write them as functions of arrays"
            " (see r1vl_jax.rewards.custom), or unset train.fused"
        )
    return RewardSpec(settings, functions)
