"""The programs of a run, each with the shapes and places of what it takes and of what is on the devices beside it."""

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from r1vl_jax.aot import shapes
from r1vl_jax.aot.flops import Counter, Flops
from r1vl_jax.arrays import Params, PromptBatch, SFTBatch, TrainBatch
from r1vl_jax.config import Config, Optim
from r1vl_jax.learner.fused_step import FusedProgram as Fused
from r1vl_jax.learner.fused_step import fused_step
from r1vl_jax.learner.learner import Learner, TrainState
from r1vl_jax.learner.logprobs import compute_logps
from r1vl_jax.learner.steps import sft_step, step_grpo_step
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.models.trainable import cast_frozen, combine, partition
from r1vl_jax.sampling.loop import Prefilled, decode, prefill
from r1vl_jax.sampling.methods import Greedy
from r1vl_jax.sampling.sampler import CACHE_SPEC, ROWS_SPEC, Sampler, make_sharding
from r1vl_jax.sampling.weight_sync import (
    can_alias,
    layers_per_group,
    non_layer_params,
    sampler_shardings,
    sync_layers,
    sync_non_layer_params,
)
from r1vl_jax.training.components import make_learner, make_reward_spec, make_sampler

EVALUATION = "evaluation"
_NONE = Flops(0.0)
# Settings that cost time and no result, and lessen what computing gradients and scores needs.
_OF_LEARNING = ("model.remat", "train.micro_batches", "loss.logp_chunk_size")
_END_OF_TURN, _END_OF_TEXT = 151_645, 151_643  # of Qwen's tokenizer; which ids they are changes no shape


@dataclass(frozen=True)
class Program:
    """A jitted function of a run and what it is called with.

    Attributes:
        stage: of the run, as in `train.stages`, or `EVALUATION`.
        function: jitted.
        static: its static arguments, which come first.
        arguments: shapes with places.
        held: what is on the devices meanwhile and no argument: name -> shapes with places.
        operations: of one run of it.
        runs_per_step: how often it runs for an update of its stage; 0 in evaluation.
        is_used: whether the configuration runs it at all.
        settings: names of those with which it needs less memory and gives the same.
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
    settings: tuple[str, ...] = _OF_LEARNING

    def lower(self) -> jax.stages.Lowered:
        """Traced, for the devices that the places name."""
        return self.function.lower(*self.static, *self.arguments)


def programs(config: Config, model: Definition, memory_bytes: float | None = None) -> Iterator[Program]:
    """Every program of the stages of a configuration, in the order in which a run meets them, then of evaluation.

    Args:
        memory_bytes: of a device, after which the sampler's mesh is chosen; None where it is not known.
    """
    world = _World(config, model, memory_bytes)
    for stage in ("vision_pretrain", "warmup"):
        if stage in config.train.stages:
            yield world.supervised(stage)
    if "step_grpo" in config.train.stages:
        yield from (*world.sampling(), *world.scores(), world.update(), world.fused())
    yield from world.evaluation()


class _World:
    """What the programs of a run share."""

    def __init__(self, config: Config, model: Definition, memory_bytes: float | None):
        assert model.mesh is not None
        self.config, self.model, self.mesh, self.memory_bytes = config, model, model.mesh, memory_bytes
        params = jax.eval_shape(lambda params: cast_frozen(params, config.model), model.abstract_params())
        self.trained, self.frozen = (
            shapes.with_shardings(part, model.mesh) for part in partition(params, config.model)
        )
        self.num_prompts = config.train.prompts_per_update
        self.num_rows = self.num_prompts * config.sampling.num_generations
        self.count = Counter(
            model,
            config.model,
            prompt_length=config.data.max_prompt_length,
            completion_length=config.sampling.max_completion_length,
            patches=shapes.patches_of_picture(config, model.config.vision),
        )

    def supervised(self, stage: str) -> Program:
        """An update of a supervised stage."""
        settings = getattr(self.config, stage)
        learner, size = self._learner(settings.optim, settings.max_steps), settings.batch_size
        batch = SFTBatch(self._prompts(size), shapes.completions(self.config, size, self.mesh))
        return Program(
            name=f"{stage} update",
            stage=stage,
            function=sft_step,
            static=(learner,),
            arguments=(self._state(learner), self.frozen, batch),
            resident={},
            flops=self.count.update(size, size, num_sequences=size),
        )

    def sampling(self) -> Iterator[Program]:
        """The decoder's copy, if it takes a program; prompts are read, before or meanwhile; completions are drawn."""
        yield from self._sync("step_grpo", self.num_prompts)
        yield from self._draw("step_grpo", self.sampler, self.num_prompts)

    def evaluation(self) -> Iterator[Program]:
        """The same for greedy decoding of held-out problems, but what StepGRPO runs in the same shapes."""
        greedy = dataclasses.replace(self.sampler, method=Greedy(), num_generations=1)
        is_sampled = "step_grpo" in self.config.train.stages and not self.config.train.fused
        reading, drawing = (
            dataclasses.replace(program, settings=("eval.batch_size",))
            for program in self._draw(EVALUATION, greedy, self.config.eval.batch_size)
        )
        if not is_sampled:
            yield from self._sync(EVALUATION, self.config.eval.batch_size)
        if not is_sampled or self.config.eval.batch_size != self.num_prompts:
            yield reading
        yield drawing

    def _sync(self, stage: str, num_prompts: int) -> Iterator[Program]:
        """The copy in two programs, beside the first prompts; views, which need none, count as a copy all the same."""
        if can_alias(self.model, self.decoding_mesh, self.policy):
            return
        layers, group = self.copy["layers"], layers_per_group(self.model.config.num_hidden_layers)
        per_generation = 1 / self.config.loss.steps_per_generation
        prompts = self._prompts(num_prompts)
        read = {"prompts": prompts, "prompts, read": self._prefilled(self.sampler, prompts)}
        yield self._sampling(
            "sync of layers",
            stage,
            sync_layers(self.model, self.decoding_mesh),
            (self.policy["text"]["layers"], shapes.scalar(self.mesh, jnp.int32)),
            held={"rest of the policy": _without(self.policy, ("text.layers",)), "copy": layers[:-group]} | read,
            runs=len(layers) / group * per_generation,
        )
        yield self._sampling(
            "sync of the rest",
            stage,
            sync_non_layer_params(self.model, self.decoding_mesh),
            (non_layer_params(self.policy),),
            held={"rest of the policy": _without(self.policy, ("text.embed", "text.norm", "lm_head")), "copy": layers}
            | read,
            runs=per_generation,
        )

    def _draw(self, stage: str, sampler: Sampler, num_prompts: int) -> tuple[Program, Program]:
        """Prompts are read, and completions drawn."""
        prompts = self._prompts(num_prompts)
        reading = self._sampling(
            "prefill",
            stage,
            prefill(sampler),
            (self.policy, prompts),
            held={"copy": self.copy},
            operations=self.count.prefill(num_prompts),
        )
        drawing = self._sampling(
            "decode",
            stage,
            decode(sampler),
            (self.copy, self._prefilled(sampler, prompts), shapes.key(self._prompts_mesh)),
            held={"policy": self.policy, "prompts": prompts},
            operations=self.count.decode(num_prompts * sampler.num_generations),
            settings=("sampling.slots",),
        )
        return reading, drawing

    def scores(self) -> Iterator[Program]:
        """Log-probabilities under the reference and under the policy that sampled, as far as the loss needs them."""
        state = self._state(self._step_grpo_learner)
        if self.config.loss.needs_reference:
            yield self._score("reference scores", self.reference, {"training state": state})
        if self.config.loss.needs_policy_logps:
            yield self._score("policy scores", self.trained, {"optimizer": state.opt_state} | self._held_reference)

    def update(self) -> Program:
        """The gradient of the objective, and what it changes."""
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
            resident=self._held_reference,
            flops=self._operations_of_update(learner),
            is_used=not self.config.train.fused,
        )

    def fused(self) -> Program:
        """All of a step as one program."""
        learner, num_prompts = self._step_grpo_learner, self.num_prompts
        loss = self.config.loss
        num_scores = loss.needs_reference + loss.needs_policy_logps
        work = self.count.prefill(num_prompts) + self.count.decode(self.num_rows)
        for _ in range(num_scores):
            work += self._operations_of_score(learner)
        return Program(
            name="fused step",
            stage="step_grpo",
            function=fused_step,
            static=(Fused(learner, self.sampler, make_reward_spec(self.config)),),
            arguments=(
                self._state(learner),
                self.frozen,
                combine(self.reference, self.frozen) if loss.needs_reference else None,
                self._prompts(num_prompts),
                shapes.reward_targets(self.config, num_prompts, self.mesh),
                shapes.vocabulary(self.model.config.vocab_size, self.mesh),
                shapes.key(self.mesh),
            ),
            resident={},
            flops=work + self._operations_of_update(learner),
            settings=(*_OF_LEARNING, "sampling.slots"),
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
    def decoding_mesh(self) -> jax.sharding.Mesh:
        """The same devices, as sampling lays them out."""
        assert self.sampler.mesh is not None
        return self.sampler.mesh

    @property
    def _prompts_mesh(self) -> jax.sharding.Mesh:
        assert self.sampler.prompts_mesh is not None
        return self.sampler.prompts_mesh

    @functools.cached_property
    def copy(self) -> Params:
        """The sampler's parameters, as `sampling.sync` returns them."""
        mesh, start = self.decoding_mesh, shapes.Shape((), jnp.int32)
        group = jax.eval_shape(sync_layers(self.model, mesh), self.policy["text"]["layers"], start)
        rest = jax.eval_shape(sync_non_layer_params(self.model, mesh), non_layer_params(self.policy))
        copy = rest | {"layers": group[:1] * self.model.config.num_hidden_layers}
        return shapes.at(copy, sampler_shardings(copy, mesh))

    def _prefilled(self, sampler: Sampler, prompts: PromptBatch) -> Prefilled:
        """What decoding goes on from."""
        prefilled = jax.eval_shape(prefill(sampler), self.policy, prompts)
        is_cache = {4: CACHE_SPEC}  # a cache has rows, heads, and positions and the width of a head
        return shapes.at(
            prefilled,
            jax.tree.map(lambda leaf: make_sharding(self._prompts_mesh, is_cache.get(leaf.ndim, ROWS_SPEC)), prefilled),
        )

    @property
    def policy(self) -> Params:
        """All parameters of what is trained."""
        return combine(self.trained, self.frozen)

    @property
    def reference(self) -> Params:
        """The reference's copy of what is trained, in the dtype of the computation; all else is the policy's too."""
        dtype = jnp.dtype(self.config.model.dtype)
        return jax.tree.map(lambda leaf: shapes.Shape(leaf.shape, dtype, sharding=leaf.sharding), self.trained)

    @property
    def _held_reference(self) -> dict[str, Any]:
        return {"reference": self.reference} if self.config.loss.needs_reference else {}

    @property
    def _runs_of_generation(self) -> float:
        """Generations per update."""
        return 1 / self.config.loss.num_iterations

    @property
    def _step_grpo_learner(self) -> Learner:
        return self._learner(self.config.optim, self.config.train.max_steps)

    def _learner(self, optim: Optim, max_steps: int) -> Learner:
        return make_learner(self.config, self.model, optim=optim, max_steps=max_steps, trained=self.trained)

    def _state(self, learner: Learner) -> TrainState:
        return shapes.with_shardings(jax.eval_shape(learner.init, self.trained), self.mesh)

    def _prompts(self, num_prompts: int) -> PromptBatch:
        return shapes.prompts(self.config, self.model.config.vision, num_prompts, self.mesh)

    def _sampling(
        self,
        name: str,
        stage: str,
        function: Any,
        arguments: tuple[Any, ...],
        *,
        held: dict[str, Any],
        operations: Flops = _NONE,
        runs: float = 1.0,
        settings: tuple[str, ...] = (),
    ) -> Program:
        """A program of sampling, and what is held beside it."""
        is_training = stage != EVALUATION
        return Program(
            name=name if is_training else f"{stage} {name}",
            stage=stage,
            function=function,
            static=(),
            arguments=arguments,
            resident=held | (self._held_in_training if is_training else self._held_in_evaluation),
            flops=operations,
            runs_per_step=runs * self._runs_of_generation if is_training else 0.0,
            settings=settings,
            is_used=not (is_training and self.config.train.fused),
        )

    def _operations_of_score(self, learner: Learner) -> Flops:
        num_sequences = learner.num_sequences(self.num_prompts, self.num_rows)
        return self.count.score(self.num_prompts, self.num_rows, num_sequences=num_sequences)

    def _operations_of_update(self, learner: Learner) -> Flops:
        num_parts = learner.num_micro_batches(
            (self.num_prompts, self.config.data.max_prompt_length),
            (self.num_rows, self.config.sampling.max_completion_length),
        )
        num_sequences = learner.num_sequences(self.num_prompts, self.num_rows, num_parts=num_parts)
        return self.count.update(self.num_prompts, self.num_rows, num_sequences=num_sequences)

    @property
    def _held_in_training(self) -> dict[str, Any]:
        """What StepGRPO holds beside the policy."""
        return {"optimizer": self._state(self._step_grpo_learner).opt_state} | self._held_reference

    @property
    def _held_in_evaluation(self) -> dict[str, Any]:
        """The same, if it validates; between stages there is nothing but the policy."""
        stages, settings = self.config.train.stages, self.config.eval
        if settings.steps > 0 and "step_grpo" in stages:
            return self._held_in_training
        if settings.supervised_steps > 0 and set(stages) - {"step_grpo"}:
            return {"optimizer": self._state(self._step_grpo_learner).opt_state}  # of any stage: two moments a number
        return {}

    def _score(self, name: str, trained: Params, held: dict[str, Any]) -> Program:
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
            resident=held,
            flops=self._operations_of_score(self._step_grpo_learner),
            runs_per_step=self._runs_of_generation,
            is_used=not self.config.train.fused,
        )


def _without(params: Params, starts: tuple[str, ...]) -> Params:
    """Parameters but those whose dotted path starts so."""
    return {path: leaf for path, leaf in flatten_dict(params, sep=".").items() if not path.startswith(starts)}
