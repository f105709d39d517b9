"""The supervised stages: fine-tuning on written responses, the loss being over the response only."""

from r1vl_jax.arrays import Params
from r1vl_jax.learner.steps import sft_step
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.models.trainable import partition
from r1vl_jax.runtime import processes
from r1vl_jax.training.components import make_learner
from r1vl_jax.training.data_loader import DataLoader
from r1vl_jax.training.loop import Plan, Run, Stage, shard_state


def supervised(run: Run, name: str, params: Params, *, definition: Definition, loader: DataLoader) -> Params:
    """Fine-tunes on the records of the stage's split; returns the parameters after the last update.

    Args:
        name: of the stage, of its settings and of its split.
        params: donated.
    """
    config, settings = run.config, getattr(run.config, name)
    trained, frozen = partition(params, config.model)
    learner = make_learner(config, definition, optim=settings.optim, max_steps=settings.max_steps, trained=trained)
    stream = loader.sft_batches(
        name,
        batch_size=settings.batch_size,
        max_completion_length=config.sampling.max_completion_length,
        completion_bucket=config.train.completion_bucket,
    )
    plan = Plan(
        name,
        settings.max_steps,
        settings.optim,
        eval_steps=config.eval.supervised_steps,
        updates_per_epoch=len(loader.splits[name]) / settings.batch_size,
    )
    initial = shard_state(learner.init(trained), loader.mesh)
    with Stage(run, plan, initial, frozen, stream) as stage:
        for step in stage.steps():
            with run.timers("data"):
                batch = next(stream)
                own_tokens = int(batch.prompts.mask_PS.sum() + batch.completions.mask_BT.sum())
                num_tokens = sum(processes.all_gather_objects(own_tokens))  # before the update: no waiting for it
            with run.timers("update"):
                stage.state, metrics = sft_step(learner, stage.state, frozen, loader.shard_batch(batch))
            stage.record(step, metrics, num_tokens=num_tokens, host={})
    return stage.params
