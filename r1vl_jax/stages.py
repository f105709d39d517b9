"""The stages of a run, each a loop over updates: imitation of written paths, then StepGRPO on the model's own."""

import json
from dataclasses import asdict

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from r1vl_jax import losses, observe, rewards
from r1vl_jax.arrays import Params, Rollout, TrainBatch, TrainRows
from r1vl_jax.config import Optim
from r1vl_jax.data.records import Record
from r1vl_jax.learner import Learner, score, step_grpo_step, warmup_step
from r1vl_jax.metrics import completion_metrics, reward_metrics
from r1vl_jax.optim import optimizer
from r1vl_jax.rewards import StepReward
from r1vl_jax.run import Run, Stage
from r1vl_jax.sampling.loop import sample
from r1vl_jax.trainable import partition


def supervised(run: Run, name: str, params: Params) -> Params:
    """Supervised fine-tuning on the records of the stage's split; returns the parameters after the last update."""
    settings = getattr(run.config, name)
    trained, frozen = partition(params, run.config.model)
    learner = _learner(run, settings.optim, settings.max_steps, trained)
    stream = run.parts.supervised_stream(name, settings.batch_size)
    initial = run.parts.place(learner.init(trained))
    with Stage(run, name, settings.max_steps, initial, frozen, stream, settings.optim) as stage:
        for step in stage.steps():
            with run.timers("data"):
                batch = next(stream)
            with run.timers("update"):
                stage.state, figures = warmup_step(learner, stage.state, frozen, batch)
            num_tokens = int(batch.prompts.mask_PS.sum() + batch.completions.mask_BT.sum())
            stage.record(step, figures, num_tokens=num_tokens, host={})
    return stage.params


def step_grpo(run: Run, name: str, params: Params) -> Params:
    """StepGRPO from `params`, which are the frozen reference too; returns the parameters after the last update."""
    config = run.config
    trained, frozen = partition(params, config.model)
    learner = _learner(run, config.optim, config.train.max_steps, trained)
    sampler, reference_params = run.parts.sampler(), params
    # Updates donate their state; the reference stays. What is frozen is the policy's and the reference's in one.
    initial = run.parts.place(learner.init(jax.tree.map(jnp.copy, trained)))
    stream = run.parts.prompt_stream()
    with Stage(run, name, config.train.max_steps, initial, frozen, stream, config.optim) as stage:
        for step in stage.steps():
            with run.timers("data"):
                records, prompts = next(stream)
            with run.timers("gen"):
                rollout = jax.block_until_ready(sample(sampler, stage.params, prompts, run.key(step)))
            with run.timers("ref"):  # dispatched only: the device computes while the host scores
                ref_logp_BT, _ = score(learner, reference_params, prompts, rollout.completions)
            with run.timers("reward"):
                texts = run.parts.texts(rollout.completions)
                reward, reward_PG = step_reward(run, texts, records)
            with run.timers("update"):
                advantage_PG = losses.group_advantage(jnp.asarray(reward_PG), scale_rewards=config.loss.scale_rewards)
                rows = TrainRows(rollout.completions, advantage_PG.reshape(-1), ref_logp_BT, rollout.logp_BT)
                stage.state, figures = step_grpo_step(learner, stage.state, frozen, TrainBatch(prompts, rows))
            num_tokens = int(jnp.sum(rollout.completions.mask_BT) + prompts.mask_PS.sum())
            stage.record(step, figures, num_tokens=num_tokens, host=_host_figures(rollout, reward, reward_PG))
            if stage.is_due(step, config.observe.log_completions):
                _keep_completions(run, step, records, texts, reward, reward_PG, np.asarray(advantage_PG))
    return stage.params


def step_reward(run: Run, texts: list[str], records: list[Record]) -> tuple[StepReward, Float[np.ndarray, "P G"]]:
    """What each completion earns, part by part, and the weighted total that is compared within groups."""
    settings = run.config.reward
    num_generations = len(texts) // len(records)
    reward = rewards.score(
        texts,
        [asdict(record) for record in records for _ in range(num_generations)],
        semantics=settings.semantics,
        backend=settings.backend,
        alpha=settings.alpha,
        judge=run.judge,
    )
    accuracy_weight, validity_weight = settings.reward_weights
    total_B = accuracy_weight * reward.step_accuracy + validity_weight * reward.step_validity
    return reward, total_B.reshape(len(records), num_generations)


def _learner(run: Run, optim: Optim, max_steps: int, trained: Params) -> Learner:
    config = run.config
    return Learner(
        definition=run.parts.definition,
        optimizer=optimizer(optim, max_steps, trained),
        chunk_size=config.loss.logp_chunk_size,
        temperature=config.sampling.temperature if config.loss.temperature_in_loss else 1.0,
        micro_batches=config.train.micro_batches,
        beta=config.loss.beta,
    )


def _host_figures(rollout: Rollout, reward: StepReward, reward_PG: Float[np.ndarray, "P G"]) -> dict[str, float]:
    length_B = np.asarray(rollout.completions.mask_BT).sum(axis=1)
    return reward_metrics(reward, reward_PG) | completion_metrics(length_B, np.asarray(rollout.has_ended_B))


def _keep_completions(
    run: Run,
    step: int,
    records: list[Record],
    texts: list[str],
    reward: StepReward,
    reward_PG: Float[np.ndarray, "P G"],
    advantage_PG: Float[np.ndarray, "P G"],
) -> None:
    """Writes every completion of a step with what it earned, and prints some of the first prompt's."""
    rows = []
    for row, text in enumerate(texts):
        record = records[row // reward_PG.shape[1]]
        spans = rewards.key_step_spans(text, record.key_steps, semantics=run.config.reward.semantics)
        rows.append(
            {
                "step": step,
                "prompt": record.problem,
                "image": record.images[0] if record.images else b"",
                "kind": record.kind,
                "answer": record.answer,
                "key_steps": json.dumps(record.key_steps),
                "completion": text,
                "key_step_spans": json.dumps(spans),
                "reward": reward_PG.flat[row],
                "advantage": advantage_PG.flat[row],
            }
            | {name: float(getattr(reward, name)[row]) for name in _PARTS_KEPT}
        )
    observe.write_completions(run.workdir, step, rows)
    if run.config.observe.num_completions_to_print:
        observe.print_completions(rows[: run.config.observe.num_completions_to_print])


_PARTS_KEPT = ("step_accuracy", "step_validity", "answer_correct", "key_step_match", "complete", "ordered")
