"""The programs of a run, each with the shapes and places of what it takes and of what is on the devices beside it."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from r1vl_jax.arrays import Params, TrainBatch, WarmupBatch
from r1vl_jax.assembly import make_learner, make_sampler, reward_scheme
from r1vl_jax.checkpoint.model_config import expected_config
from r1vl_jax.compiling import shapes
from r1vl_jax.compiling.operations import Counter, Operations
from r1vl_jax.config import Config, Optim
from r1vl_jax.learner import Learner, TrainState, fused_step, score, step_grpo_step, warmup_step
from r1vl_jax.learner import Program as Fused
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.sampling.loop import Sampler, sample
from r1vl_jax.trainable import adapted, combine, partition, stored

_END_OF_TURN, _END_OF_TEXT = 151_645, 151_643  # of Qwen's tokenizer; which ids they are changes no shape


@dataclass(frozen=True)
class Program:
    """A jitted function of a run and what it is called with.

    Attributes:
        stage: of the run, as in `train.stages`.
        function: jitted; its first argument is static.
        arguments: shapes with places.
        held: what is on the devices meanwhile and no argument: name -> shapes with places.
        operations: of one run of it.
        runs_per_step: how often it runs for an update of its stage.
        max_trips: how often a loop runs whose end depends on what is computed.
        is_used: whether the configuration runs it at all.
        is_tunable: whether it needs less memory with other settings of remat, micro-batches and chunks.
    """

    name: str
    stage: str
    function: Any
    arguments: tuple[Any, ...]
    held: dict[str, Any]
    operations: Operations
    runs_per_step: float = 1.0
    max_trips: int = 1
    is_used: bool = True
    is_tunable: bool = True

    def lower(self) -> jax.stages.Lowered:
        """Traced, for the devices that the places name."""
        return self.function.lower(*self.arguments)


def definition(config: Config, platform: str, mesh: jax.sharding.Mesh) -> Definition:
    """The model of a configuration, whose weights need not be there, as it is computed on "tpu", "gpu" or "cpu".

    Raises:
        ValueError: its sizes are not known; says what to set.
    """
    base = Definition(expected_config(config.model), config.model.dtype, config.model.remat, platform, mesh)
    return dataclasses.replace(base, lora=adapted(base, config.model))


def programs(config: Config, model: Definition) -> Iterator[Program]:
    """Every program of the stages of a configuration, in the order in which a run meets them."""
    world = _World(config, model)
    for stage in ("alignment", "warmup"):
        if stage in config.train.stages:
            yield world.supervised(stage)
    if "step_grpo" in config.train.stages:
        yield from (world.sample(), *world.scores(), world.update(), world.fused())


class _World:
    """What the programs of a run share."""

    def __init__(self, config: Config, model: Definition):
        assert model.mesh is not None
        self.config, self.model, self.mesh = config, model, model.mesh
        params = jax.eval_shape(lambda params: stored(params, config.model), model.abstract_params())
        self.trained, self.frozen = (shapes.placed(part, model.mesh) for part in partition(params, config.model))
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
        batch = WarmupBatch(self._prompts(size), shapes.completions(self.config, size, self.mesh))
        return Program(
            name=f"{stage} update",
            stage=stage,
            function=warmup_step,
            arguments=(learner, self._state(learner), self.frozen, batch),
            held={},
            operations=self.count.update(size, size),
        )

    def sample(self) -> Program:
        """G completions of every prompt."""
        state = self._state(self._step_grpo_learner)
        return Program(
            name="sample",
            stage="step_grpo",
            function=sample,
            arguments=(
                self._sampler,
                combine(self.trained, self.frozen),
                self._prompts(self.num_prompts),
                shapes.key(self.mesh),
            ),
            held={"optimizer": state.opt_state} | self._held_reference,
            operations=self.count.prefill(self.num_prompts) + self.count.decode(self.num_rows),
            runs_per_step=self._runs_of_generation,
            max_trips=self._sampler.max_length,
            is_tunable=False,
            is_used=not self.config.train.fused,
        )

    def scores(self) -> Iterator[Program]:
        """Log-probabilities under the reference and under the policy that sampled, as far as the loss needs them."""
        state = self._state(self._step_grpo_learner)
        if self.config.loss.needs_reference:
            yield self._score("reference scores", self.reference, {"training state": state})
        if self.config.loss.needs_policy_scores:
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
            arguments=(learner, self._state(learner), self.frozen, batch),
            held=self._held_reference,
            operations=self.count.update(self.num_prompts, self.num_rows),
            is_used=not self.config.train.fused,
        )

    def fused(self) -> Program:
        """All of a step as one program."""
        learner, num_prompts = self._step_grpo_learner, self.num_prompts
        loss = self.config.loss
        num_scores = loss.needs_reference + loss.needs_policy_scores
        work = self.count.prefill(num_prompts) + self.count.decode(self.num_rows)
        for _ in range(num_scores):
            work += self.count.score(num_prompts, self.num_rows)
        return Program(
            name="fused step",
            stage="step_grpo",
            function=fused_step,
            arguments=(
                Fused(learner, self._sampler, reward_scheme(self.config)),
                self._state(learner),
                self.frozen,
                combine(self.reference, self.frozen) if loss.needs_reference else None,
                self._prompts(num_prompts),
                shapes.questions(self.config, num_prompts, self.mesh),
                shapes.vocabulary(self.model.config.vocab_size, self.mesh),
                shapes.key(self.mesh),
            ),
            held={},
            operations=work + self.count.update(num_prompts, self.num_rows),
            max_trips=self._sampler.max_length,
            is_used=self.config.train.fused,
        )

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
    def _sampler(self) -> Sampler:
        sizes = self.model.config
        vision = (sizes.image_token_id, sizes.video_token_id, sizes.vision_start_token_id, sizes.vision_end_token_id)
        return make_sampler(self.config, self.model, (_END_OF_TURN, _END_OF_TEXT), vision)

    @property
    def _step_grpo_learner(self) -> Learner:
        return self._learner(self.config.optim, self.config.train.max_steps)

    def _learner(self, optim: Optim, max_steps: int) -> Learner:
        return make_learner(self.config, self.model, optim=optim, max_steps=max_steps, trained=self.trained)

    def _state(self, learner: Learner) -> TrainState:
        return shapes.placed(jax.eval_shape(learner.init, self.trained), self.mesh)

    def _prompts(self, num_prompts: int):
        return shapes.prompts(self.config, self.model.config.vision, num_prompts, self.mesh)

    def _score(self, name: str, trained: Params, held: dict[str, Any]) -> Program:
        return Program(
            name=name,
            stage="step_grpo",
            function=score,
            arguments=(
                self._step_grpo_learner,
                combine(trained, self.frozen),
                self._prompts(self.num_prompts),
                shapes.completions(self.config, self.num_rows, self.mesh),
            ),
            held=held,
            operations=self.count.score(self.num_prompts, self.num_rows),
            runs_per_step=self._runs_of_generation,
            is_used=not self.config.train.fused,
        )
