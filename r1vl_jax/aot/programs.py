"""The jitted programs of a run: abstract arguments with shardings, what else is resident on the devices, and FLOPs."""

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax import export

from r1vl_jax.aot import shapes
from r1vl_jax.aot.flops import FlopCounter, Flops
from r1vl_jax.arrays import Params, PromptBatch, SFTBatch, TrainBatch
from r1vl_jax.config import Config, Optim
from r1vl_jax.learner.fused_step import FusedProgram, fused_step
from r1vl_jax.learner.learner import Learner, TrainState
from r1vl_jax.learner.logprobs import compute_logps
from r1vl_jax.learner.steps import sft_step, step_grpo_step
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.models.trainable import cast_frozen, combine, partition
from r1vl_jax.sampling.loop import Prefilled, decode, prefill
from r1vl_jax.sampling.sampler import CACHE_SPEC, ROWS_SPEC, Sampler, make_sharding
from r1vl_jax.sampling.weight_sync import (
    can_alias,
    layers_per_group,
    non_layer_params,
    sampler_shardings,
    sync_layers,
    sync_non_layer_params,
)
from r1vl_jax.training.components import make_greedy, make_learner, make_reward_spec, make_sampler, make_several

EVALUATION = "evaluation"
_NO_FLOPS = Flops(0.0)
# Settings that trade speed for memory in the learner's programs; results stay the same.
_LEARNER_MEMORY_SETTINGS = ("model.remat", "train.micro_batches", "loss.logp_chunk_size")
_END_OF_TURN, _END_OF_TEXT = 151_645, 151_643  # of Qwen's tokenizer; their values change no shape


@dataclass(frozen=True)
class Program:
    """A jitted function of a run, and its abstract arguments.

    Attributes:
        stage: as in `train.stages`, or `EVALUATION`.
        static: static arguments, which come first.
        arguments: shapes with shardings.
        resident: arrays that are on the devices meanwhile and are no arguments: name -> shapes with shardings.
        flops: of one run.
        runs_per_step: runs per update of the stage; 0 in evaluation.
        is_used: whether this configuration runs it.
        memory_settings: names of settings that can reduce its memory without changing its results.
    """

    name: str
    stage: str
    function: Any
    static: tuple[Any, ...]
    arguments: tuple[Any, ...]
    resident: dict[str, Any]
    flops: Flops
    runs_per_step: float = 1.0
    is_used: bool = True
    memory_settings: tuple[str, ...] = _LEARNER_MEMORY_SETTINGS

    def lower(self) -> jax.stages.Lowered:
        """Lowered for the devices of the shardings."""
        return self.function.lower(*self.static, *self.arguments)

    def export_for_gpu(self) -> export.Exported:
        """Lowered, not compiled, for as many GPUs as the shardings have devices; the model is defined for "gpu".

        Finds on a machine without GPUs what cannot be lowered for them. Programs with attention over whole sequences
        have to be in float32: JAX's lowering of cuDNN attention requires CUDA's libraries and a GPU.
        """
        return export.export(self.function, platforms=["cuda"])(*self.static, *self.arguments)


def programs(config: Config, model: Definition, memory_bytes: float | None = None) -> Iterator[Program]:
    """All programs of a configuration's stages, in the order in which a run calls them, then those of evaluation.

    Args:
        memory_bytes: HBM of a device, by which the sampler's mesh is chosen; None if unknown.
    """
    builder = _ProgramBuilder(config, model, memory_bytes)
    for stage in ("vision_pretrain", "warmup"):
        if stage in config.train.stages:
            yield builder.supervised(stage)
    if "step_grpo" in config.train.stages:
        yield from (*builder.rollout(), *builder.logps(), builder.update(), builder.fused_step())
    if config.eval.is_used:
        yield from builder.evaluation()


class _ProgramBuilder:
    """Builds the programs of a run from what they share."""

    def __init__(self, config: Config, model: Definition, memory_bytes: float | None):
        assert model.mesh is not None
        self.config, self.model, self.mesh, self.memory_bytes = config, model, model.mesh, memory_bytes
        params = jax.eval_shape(lambda params: cast_frozen(params, config.model), model.abstract_params())
        self.trained, self.frozen = (
            shapes.abstract_params(part, model.mesh) for part in partition(params, config.model)
        )
        self.num_prompts = config.train.prompts_per_update
        self.num_rows = self.num_prompts * config.sampling.num_generations
        self.flops = FlopCounter(
            model,
            config.model,
            prompt_length=config.data.max_prompt_length,
            completion_length=config.sampling.max_completion_length,
            patches=shapes.patches_per_image(config, model.config.vision),
            num_vision_backwards=2 if config.train.gradient_cosine else 1,
        )

    def supervised(self, stage: str) -> Program:
        """The update of a supervised stage."""
        settings = getattr(self.config, stage)
        learner, size = self._learner(settings.optim, settings.max_steps), settings.batch_size
        batch = SFTBatch(self._prompts(size), shapes.completions(self.config, size, self.mesh))
        return Program(
            name=f"{stage}_update",
            stage=stage,
            function=sft_step,
            static=(learner,),
            arguments=(self._state(learner), self.frozen, batch),
            resident={},
            flops=self.flops.update(size, size, num_sequences=size),
        )

    def rollout(self) -> Iterator[Program]:
        """Weight sync to the sampler, unless it aliases the weights; prefill; decoding."""
        yield from self._weight_sync("step_grpo", self.num_prompts)
        yield from self._prefill_and_decode("step_grpo", self.sampler, self.num_prompts)

    def evaluation(self) -> Iterator[Program]:
        """The same for greedy decoding of held-out problems, but for programs that StepGRPO runs in the same shapes."""
        greedy = make_greedy(self.sampler, max_length=self.config.eval.max_completion_length)
        shares_rollout = "step_grpo" in self.config.train.stages and not self.config.train.fused
        prefill_program, decode_program = (
            dataclasses.replace(program, memory_settings=("eval.batch_size",))
            for program in self._prefill_and_decode(EVALUATION, greedy, self.config.eval.batch_size)
        )
        if not shares_rollout:
            yield from self._weight_sync(EVALUATION, self.config.eval.batch_size)
        if not shares_rollout or self.config.eval.batch_size != self.num_prompts:
            yield prefill_program
        yield decode_program
        if (several := make_several(self.sampler, self.config.eval)) is not None:
            _, samples_program = self._prefill_and_decode(EVALUATION, several, self.config.eval.batch_size)
            yield dataclasses.replace(
                samples_program, name=f"{samples_program.name}_samples", memory_settings=("eval.batch_size",)
            )

    def _weight_sync(self, stage: str, num_prompts: int) -> Iterator[Program]:
        """Weight sync in two programs, beside the first prefilled prompts; none where the sampler aliases weights."""
        if can_alias(self.model, self.decode_mesh, self.policy):
            return
        layers, group = self.sampler_params["layers"], layers_per_group(self.model.config.num_hidden_layers)
        syncs_per_rollout = 1 / self.config.loss.steps_per_generation
        prompts = self._prompts(num_prompts)
        prefilled = {"prompts": prompts, "prefilled": self._prefilled(self.sampler, prompts)}
        yield self._sampling_program(
            "sync_layers",
            stage,
            sync_layers(self.model, self.decode_mesh),
            (self.policy["text"]["layers"], shapes.scalar(self.mesh, jnp.int32)),
            resident={"other policy params": _without(self.policy, ("text.layers",)), "sampler params": layers[:-group]}
            | prefilled,
            runs=len(layers) / group * syncs_per_rollout,
        )
        yield self._sampling_program(
            "sync_non_layer_params",
            stage,
            sync_non_layer_params(self.model, self.decode_mesh),
            (non_layer_params(self.policy),),
            resident={
                "other policy params": _without(self.policy, ("text.embed", "text.norm", "lm_head")),
                "sampler params": layers,
            }
            | prefilled,
            runs=syncs_per_rollout,
        )

    def _prefill_and_decode(self, stage: str, sampler: Sampler, num_prompts: int) -> tuple[Program, Program]:
        """Prefill of prompts, then decoding of completions."""
        prompts = self._prompts(num_prompts)
        prefill_program = self._sampling_program(
            "prefill",
            stage,
            prefill(sampler),
            (self.policy, prompts),
            resident={"sampler params": self.sampler_params},
            flops=self.flops.prefill(num_prompts),
        )
        decode_program = self._sampling_program(
            "decode",
            stage,
            decode(sampler),
            (self.sampler_params, self._prefilled(sampler, prompts), shapes.rng_key(self._prompts_mesh)),
            resident={"policy": self.policy, "prompts": prompts},
            flops=self.flops.decode(num_prompts * sampler.num_generations, length=sampler.max_length),
            memory_settings=("sampling.slots",),
        )
        return prefill_program, decode_program

    def logps(self) -> Iterator[Program]:
        """Log-probabilities under the reference and under the sampling policy, where the loss needs them."""
        state = self._state(self._step_grpo_learner)
        if self.config.loss.needs_reference:
            yield self._logps_program("reference_logps", self.reference, {"train state": state})
        if self.config.loss.needs_policy_logps:
            yield self._logps_program(
                "policy_logps", self.trained, {"optimizer": state.opt_state} | self._resident_reference
            )

    def update(self) -> Program:
        """Gradient of the objective, and the optimizer step."""
        batch = TrainBatch(
            self._prompts(self.num_prompts),
            shapes.train_rows(self.config, self.num_rows, self.mesh),
            shapes.scalar(self.mesh),
        )
        learner = self._step_grpo_learner
        return Program(
            name="update",
            stage="step_grpo",
            function=step_grpo_step,
            static=(learner,),
            arguments=(self._state(learner), self.frozen, batch),
            resident=self._resident_reference,
            flops=self._update_flops(learner),
            is_used=not self.config.train.fused,
        )

    def fused_step(self) -> Program:
        """Rollout, rewards, log-probabilities and update as one program."""
        learner, num_prompts = self._step_grpo_learner, self.num_prompts
        loss = self.config.loss
        num_scores = loss.needs_reference + loss.needs_policy_logps
        flops = self.flops.prefill(num_prompts) + self.flops.decode(self.num_rows, length=self.sampler.max_length)
        for _ in range(num_scores):
            flops += self._logps_flops(learner)
        return Program(
            name="fused_step",
            stage="step_grpo",
            function=fused_step,
            static=(FusedProgram(learner, self.sampler, make_reward_spec(self.config)),),
            arguments=(
                self._state(learner),
                self.frozen,
                combine(self.reference, self.frozen) if loss.needs_reference else None,
                self._prompts(num_prompts),
                shapes.reward_targets(self.config, num_prompts, self.mesh),
                shapes.vocabulary(self.model.config.vocab_size, self.mesh),
                shapes.rng_key(self.mesh),
            ),
            resident={},
            flops=flops + self._update_flops(learner),
            memory_settings=(*_LEARNER_MEMORY_SETTINGS, "sampling.slots"),
            is_used=self.config.train.fused,
        )

    @functools.cached_property
    def sampler(self) -> Sampler:
        sizes = self.model.config
        vision = (sizes.image_token_id, sizes.video_token_id, sizes.vision_start_token_id, sizes.vision_end_token_id)
        return make_sampler(
            self.config,
            self.model,
            eos_token_ids=(_END_OF_TURN, _END_OF_TEXT),
            forbidden_token_ids=vision,
            memory_bytes=self.memory_bytes,
        )

    @property
    def decode_mesh(self) -> jax.sharding.Mesh:
        """The mesh of decoding, on the same devices."""
        assert self.sampler.mesh is not None
        return self.sampler.mesh

    @property
    def _prompts_mesh(self) -> jax.sharding.Mesh:
        assert self.sampler.prefix_cache_mesh is not None
        return self.sampler.prefix_cache_mesh

    @functools.cached_property
    def sampler_params(self) -> Params:
        """The sampler's parameters, as `sampling.weight_sync` returns them."""
        mesh, start = self.decode_mesh, shapes.Shape((), jnp.int32)
        group = jax.eval_shape(sync_layers(self.model, mesh), self.policy["text"]["layers"], start)
        rest = jax.eval_shape(sync_non_layer_params(self.model, mesh), non_layer_params(self.policy))
        params = rest | {"layers": group[:1] * self.model.config.num_hidden_layers}
        return shapes.abstract(params, sampler_shardings(params, mesh))

    def _prefilled(self, sampler: Sampler, prompts: PromptBatch) -> Prefilled:
        """What prefill returns and decoding takes."""
        prefilled = jax.eval_shape(prefill(sampler), self.policy, prompts)
        specs = {4: CACHE_SPEC}  # by rank: a cache has rows, heads, positions and head_dim
        return shapes.abstract(
            prefilled,
            jax.tree.map(lambda leaf: make_sharding(self._prompts_mesh, specs.get(leaf.ndim, ROWS_SPEC)), prefilled),
        )

    @property
    def policy(self) -> Params:
        """All parameters, trained and frozen."""
        return combine(self.trained, self.frozen)

    @property
    def reference(self) -> Params:
        """The reference's trained parameters, in the compute dtype; it shares the frozen ones with the policy."""
        dtype = jnp.dtype(self.config.model.dtype)
        return jax.tree.map(lambda leaf: shapes.Shape(leaf.shape, dtype, sharding=leaf.sharding), self.trained)

    @property
    def _resident_reference(self) -> dict[str, Any]:
        return {"reference": self.reference} if self.config.loss.needs_reference else {}

    @property
    def _rollouts_per_update(self) -> float:
        """Rollouts per update."""
        return 1 / self.config.loss.num_iterations

    @property
    def _step_grpo_learner(self) -> Learner:
        return self._learner(self.config.optim, self.config.train.max_steps)

    def _learner(self, optim: Optim, max_steps: int) -> Learner:
        return make_learner(self.config, self.model, optim=optim, max_steps=max_steps, trained=self.trained)

    def _state(self, learner: Learner) -> TrainState:
        return shapes.abstract_params(jax.eval_shape(learner.init, self.trained), self.mesh)

    def _prompts(self, num_prompts: int) -> PromptBatch:
        return shapes.prompts(self.config, self.model.config.vision, num_prompts, self.mesh)

    def _sampling_program(
        self,
        name: str,
        stage: str,
        function: Any,
        arguments: tuple[Any, ...],
        *,
        resident: dict[str, Any],
        flops: Flops = _NO_FLOPS,
        runs: float = 1.0,
        memory_settings: tuple[str, ...] = (),
    ) -> Program:
        """A program of the sampler, beside which the train state is resident."""
        is_training = stage != EVALUATION
        return Program(
            name=name if is_training else f"{stage}_{name}",
            stage=stage,
            function=function,
            static=(),
            arguments=arguments,
            resident=resident | (self._resident_in_training if is_training else self._resident_in_evaluation),
            flops=flops,
            runs_per_step=runs * self._rollouts_per_update if is_training else 0.0,
            memory_settings=memory_settings,
            is_used=not (is_training and self.config.train.fused),
        )

    def _logps_flops(self, learner: Learner) -> Flops:
        num_sequences = learner.num_sequences(self.num_prompts, self.num_rows)
        return self.flops.logps(self.num_prompts, self.num_rows, num_sequences=num_sequences)

    def _update_flops(self, learner: Learner) -> Flops:
        num_micro_batches = learner.num_micro_batches(
            (self.num_prompts, self.config.data.max_prompt_length),
            (self.num_rows, self.config.sampling.max_completion_length),
        )
        num_sequences = learner.num_sequences(self.num_prompts, self.num_rows, num_parts=num_micro_batches)
        return self.flops.update(self.num_prompts, self.num_rows, num_sequences=num_sequences)

    @property
    def _resident_in_training(self) -> dict[str, Any]:
        """What StepGRPO keeps on the devices beside the policy."""
        return {"optimizer": self._state(self._step_grpo_learner).opt_state} | self._resident_reference

    @property
    def _resident_in_evaluation(self) -> dict[str, Any]:
        """The same during validation; between stages there is only the policy."""
        stages, settings = self.config.train.stages, self.config.eval
        if settings.steps > 0 and "step_grpo" in stages:
            return self._resident_in_training
        if settings.supervised_steps > 0 and set(stages) - {"step_grpo"}:
            return {
                "optimizer": self._state(self._step_grpo_learner).opt_state
            }  # any stage's: two moments per parameter
        return {}

    def _logps_program(self, name: str, trained: Params, resident: dict[str, Any]) -> Program:
        return Program(
            name=name,
            stage="step_grpo",
            function=compute_logps,
            static=(self._step_grpo_learner,),
            arguments=(
                combine(trained, self.frozen),
                self._prompts(self.num_prompts),
                shapes.completions(self.config, self.num_rows, self.mesh),
            ),
            resident=resident,
            flops=self._logps_flops(self._step_grpo_learner),
            runs_per_step=self._rollouts_per_update,
            is_used=not self.config.train.fused,
        )


def _without(params: Params, prefixes: tuple[str, ...]) -> Params:
    """Parameters by dotted path, without those below the prefixes."""
    return {path: leaf for path, leaf in flatten_dict(params, sep=".").items() if not path.startswith(prefixes)}
