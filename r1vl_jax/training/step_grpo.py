"""The StepGRPO stage: online reinforcement learning on the policy's own completions."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from r1vl_jax import observe
from r1vl_jax.arrays import Array, Params
from r1vl_jax.learner.fused_step import FusedProgram, fused_step
from r1vl_jax.learner.gradients import Metrics
from r1vl_jax.learner.steps import step_grpo_step
from r1vl_jax.models.trainable import combine, partition
from r1vl_jax.training.completions import keep_completions
from r1vl_jax.training.components import make_learner
from r1vl_jax.training.loop import Plan, Run, Stage
from r1vl_jax.training.rollouts import RolloutBatch, RolloutMetrics, RolloutWorker


def step_grpo(run: Run, name: str, params: Params) -> Params:
    """StepGRPO from `params`, whose memory it takes; returns the parameters after the last update."""
    config, loss = run.config, run.config.loss
    trained, frozen = partition(params, config.model)
    learner = make_learner(
        config, run.components.definition, optim=config.optim, max_steps=config.train.max_steps, trained=trained
    )
    reference = _reference(trained, frozen, config.model.dtype) if loss.needs_reference else None
    initial = run.components.shard_state(learner.init(trained))
    stream = run.components.prompt_stream()
    generator = RolloutWorker(run, learner, run.components.sampler(), reference, stream)
    update = _fused(generator, frozen) if config.train.fused else _staged(generator, frozen)
    plan = Plan(
        name,
        config.train.max_steps,
        config.optim,
        eval_steps=config.eval.steps,
        updates_per_epoch=len(run.components.split("train")) / config.train.prompts_per_update * loss.num_iterations,
    )
    with Stage(run, plan, initial, frozen, stream) as stage:
        for step in stage.steps():
            is_profiled = step == config.observe.profile_step  # waited for, then: its time is its own
            with observe.profiled(run.workdir, is_wanted=is_profiled, wait=lambda: jax.block_until_ready(stage.state)):
                figures, draw, of_draw, advantage_BT = update(stage, step)
            stage.record(step, figures, num_tokens=of_draw.num_tokens, host=of_draw.metrics)
            if stage.is_due(step, config.observe.log_completions):
                keep_completions(run, step, draw, np.asarray(run.components.process_local_rows(advantage_BT)))
    return stage.params


def _reference(trained: Params, frozen: Params, dtype: str) -> Params:
    """A copy, for updates take the memory of `trained`, in the dtype it is computed in; frozen parts are shared."""
    return combine(jax.tree.map(lambda leaf: jnp.array(leaf, dtype), trained), frozen)


# (stage, step) -> figures of the update, what was drawn for it, the draw's figures, advantages of all processes' rows;
# the stage's state is replaced.
_Update = Callable[[Stage, int], tuple[Metrics, RolloutBatch, RolloutMetrics, Float[Array, "B T"]]]


def _staged(generator: RolloutWorker, frozen: Params) -> _Update:
    """Draws a generation whenever the last one is used up, and makes an update of a part of it."""
    loss, generation = generator.learner.loss, []

    def update(stage: Stage, step: int):
        if (step - 1) % loss.updates_per_generation == 0:
            generation[:] = generator.generate(stage.params, step)
        draw, of_draw, batch = generation[(step - 1) % loss.steps_per_generation]
        with generator.run.timers("update"):
            divided = generator.run.components.shard_batch(batch)
            stage.state, figures = step_grpo_step(generator.learner, stage.state, frozen, divided)
        return figures, draw, of_draw, batch.rows.advantage_BT

    return update


def _fused(generator: RolloutWorker, frozen: Params) -> _Update:
    """Does all of a step in one program; the time of everything in it is that of the update."""
    run = generator.run
    program = FusedProgram(generator.learner, generator.sampler, run.rewarder.spec)

    def update(stage: Stage, step: int):
        with run.timers("data"):
            records, prompts = next(generator.stream)
            packed = run.rewarder.pack(records)
        with run.timers("update"):
            stage.state, figures, generated = fused_step(
                program,
                stage.state,
                frozen,
                generator.reference_params,
                run.components.shard_batch(prompts),
                run.components.shard_batch(packed),
                run.rewarder.vocabulary,
                run.key(step),
            )
            sampled = generated.sampled
            given = (sampled.completions, sampled.has_ended_B, generated.rewards, generated.reward_PG)
            own = jax.device_get(run.components.process_local_rows(given))
            draw = RolloutBatch(records, prompts, sampled, *own, width=sampled.completions.token_BT.shape[1])
        return figures, draw, draw.compute_metrics(), generated.advantage_BT

    return update
