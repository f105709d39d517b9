"""The supervised stages: fine-tuning on written responses."""

from r1vl_jax.arrays import Params
from r1vl_jax.learner.steps import sft_step
from r1vl_jax.models.trainable import partition
from r1vl_jax.runtime import processes
from r1vl_jax.training.components import make_learner
from r1vl_jax.training.loop import Plan, Run, Stage


def supervised(run: Run, name: str, params: Params) -> Params:
    """Supervised fine-tuning on the records of the stage's split; returns the parameters after the last update."""
    settings = getattr(run.config, name)
    trained, frozen = partition(params, run.config.model)
    learner = make_learner(
        run.config, run.components.definition, optim=settings.optim, max_steps=settings.max_steps, trained=trained
    )
    stream = run.components.supervised_stream(name, settings.batch_size)
    plan = Plan(
        name,
        settings.max_steps,
        settings.optim,
        eval_steps=run.config.eval.supervised_steps,
        updates_per_epoch=len(run.components.split(name)) / settings.batch_size,
    )
    initial = run.components.shard_state(learner.init(trained))
    with Stage(run, plan, initial, frozen, stream) as stage:
        for step in stage.steps():
            with run.timers("data"):
                batch = next(stream)
                own_tokens = int(batch.prompts.mask_PS.sum() + batch.completions.mask_BT.sum())
                num_tokens = sum(
                    processes.all_gather_objects(own_tokens)
                )  # now, for later it would wait for the update
            with run.timers("update"):
                stage.state, figures = sft_step(learner, stage.state, frozen, run.components.shard_batch(batch))
            stage.record(step, figures, num_tokens=num_tokens, host={})
    return stage.params
