"""The StepGRPO stage: online reinforcement learning on the policy's own completions."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from r1vl_jax import observe
from r1vl_jax.arrays import Array, Params
from r1vl_jax.learner.fused_step import FusedProgram, fused_step
from r1vl_jax.learner.gradients import Metrics
from r1vl_jax.learner.steps import step_grpo_step
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.models.trainable import combine, partition
from r1vl_jax.runtime import processes
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.training.completions import keep_completions
from r1vl_jax.training.components import make_learner
from r1vl_jax.training.data_loader import DataLoader
from r1vl_jax.training.loop import Plan, Run, Stage, shard_state, step_key
from r1vl_jax.training.multi_turn.policy import RolloutFunction
from r1vl_jax.training.multi_turn.worker import EpisodeWorker
from r1vl_jax.training.rewarder import Rewarder
from r1vl_jax.training.rollout_batch import RolloutBatch, RolloutMetrics
from r1vl_jax.training.rollouts import RolloutWorker

STAGE = "step_grpo"


def step_grpo(
    run: Run,
    params: Params,
    *,
    definition: Definition,
    loader: DataLoader,
    sampler: Sampler,
    rewarder: Rewarder,
    rollout_func: RolloutFunction | None = None,
) -> Params:
    """StepGRPO from `params`, which are donated; returns the parameters after the last update.

    Args:
        rollout_func: of rollouts of several turns.
    """
    config, loss = run.config, run.config.loss
    trained, frozen = partition(params, config.model)
    learner = make_learner(config, definition, optim=config.optim, max_steps=config.train.max_steps, trained=trained)
    make_worker = RolloutWorker
    if rollout_func is not None:
        make_worker = partial(EpisodeWorker, name=config.train.rollout_func, function=rollout_func)
    worker = make_worker(
        learner=learner,
        sampler=sampler,
        rewarder=rewarder,
        reference_params=_copy_reference(trained, frozen, config.model.dtype) if loss.needs_reference else None,
        stream=loader.prompt_batches("train", batch_size=config.train.prompts_per_update),
        loader=loader,
        timers=run.timers,
        seed=config.seed,
        completion_bucket=config.train.completion_bucket,
    )
    initial = shard_state(learner.init(trained), loader.mesh)
    if config.train.fused:
        assert isinstance(worker, RolloutWorker)
        update = _fused(worker, frozen)
    else:
        update = _staged(worker, frozen)
    plan = Plan(
        STAGE,
        config.train.max_steps,
        config.optim,
        eval_steps=config.eval.steps,
        updates_per_epoch=len(loader.splits["train"]) / config.train.prompts_per_update * loss.num_iterations,
    )
    equal_groups = observe.EqualGroups()
    with Stage(run, plan, initial, frozen, worker.stream) as stage:
        for step in stage.steps():
            is_profiled = step == config.observe.profile_step  # then the update is waited for, to be timed alone
            with observe.profiled(run.workdir, enabled=is_profiled, wait=lambda: jax.block_until_ready(stage.state)):
                output = update(stage, step)
            rollout = output.rollout_metrics
            stage.record(step, output.metrics, num_tokens=rollout.num_tokens, host=rollout.metrics)
            message = equal_groups.warning(step, rollout.metrics["frac_reward_zero_std"])
            if message and processes.is_main_process():
                logging.getLogger(__name__).warning(message)
            if stage.is_due(step, config.observe.log_completions):
                advantage_BT = np.asarray(loader.process_local_rows(output.advantage_BT))
                keep_completions(run, step, output.batch, advantage_BT, rewarder=rewarder)
    return stage.params


def _copy_reference(trained: Params, frozen: Params, dtype: str) -> Params:
    """The frozen reference in the dtype of the computation: a copy, since updates donate `trained`."""
    return combine(jax.tree.map(lambda leaf: jnp.array(leaf, dtype), trained), frozen)


@dataclass(frozen=True)
class _UpdateOutput:
    """Outputs of an update, beside the stage's new state.

    Attributes:
        metrics: of the update, still on the devices.
        advantage_BT: of the rows of all processes.
    """

    metrics: Metrics
    batch: RolloutBatch
    rollout_metrics: RolloutMetrics
    advantage_BT: Float[Array, "B T"]


# (stage, step) -> outputs; the stage's state is replaced.
_UpdateFn = Callable[[Stage, int], _UpdateOutput]


def _staged(worker: RolloutWorker | EpisodeWorker, frozen: Params) -> _UpdateFn:
    """Samples a generation every `updates_per_generation` updates, and trains on one batch of it at a time."""
    loss, generation = worker.learner.loss, []

    def update(stage: Stage, step: int) -> _UpdateOutput:
        if (step - 1) % loss.updates_per_generation == 0:
            generation.clear()  # its prompts and pictures are on the devices: freed before the next are placed
            generation.extend(worker.generate(stage.params, step))
        batch, rollout_metrics, train_batch = generation[(step - 1) % loss.steps_per_generation]
        with worker.timers("update"):
            sharded = worker.loader.shard_batch(train_batch)
            stage.state, metrics = step_grpo_step(worker.learner, stage.state, frozen, sharded)
        return _UpdateOutput(metrics, batch, rollout_metrics, train_batch.rows.advantage_BT)

    return update


def _fused(worker: RolloutWorker, frozen: Params) -> _UpdateFn:
    """Does all of a step in one program; the time of everything in it is that of the update."""
    rewarder, loader = worker.rewarder, worker.loader
    program = FusedProgram(worker.learner, worker.sampler, rewarder.spec)

    def update(stage: Stage, step: int) -> _UpdateOutput:
        with worker.timers("data"):
            records, host_prompts = next(worker.stream)
            targets = rewarder.pack(records)
        with worker.timers("update"):
            prompts = loader.shard_batch(host_prompts)
            stage.state, metrics, output = fused_step(
                program,
                stage.state,
                frozen,
                worker.reference_params,
                prompts,
                loader.shard_batch(targets),
                rewarder.vocabulary,
                step_key(worker.seed, step),
            )
            sampled = output.sampled
            global_rows = (sampled.completions, sampled.has_ended_B, output.rewards, output.group_rewards)
            own = jax.device_get(loader.process_local_rows(global_rows))
            batch = RolloutBatch(
                records,
                prompts,
                sampled,
                *own,
                num_prompt_tokens=int(host_prompts.mask_PS.sum()),
                num_columns=sampled.completions.token_BT.shape[1],
            )
        return _UpdateOutput(metrics, batch, batch.compute_metrics(), output.advantage_BT)

    return update
