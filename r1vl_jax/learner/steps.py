"""Supervised and StepGRPO updates: one jitted program each."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from r1vl_jax import losses
from r1vl_jax.arrays import Completions, Params, PromptBatch, SFTBatch, TrainBatch, TrainRows, check_shapes
from r1vl_jax.learner.gradients import Metrics, Objective, Rows, accumulate_gradients
from r1vl_jax.learner.learner import Learner, TrainState


# The state is donated: parameters and both moments exist once.
@partial(jax.jit, static_argnums=0, donate_argnums=1)
def sft_step(learner: Learner, state: TrainState, frozen: Params, batch: SFTBatch) -> tuple[TrainState, Metrics]:
    """One step of supervised fine-tuning; the loss is over completion tokens only."""
    check_shapes(batch)
    denominator = jnp.sum(batch.completions.mask_BT)

    def objective(logp_BT: Float[Array, "B T"], rows: Completions) -> tuple[Float[Array, ""], Metrics]:
        return losses.supervised(logp_BT, rows.mask_BT, denominator=denominator)

    return _apply_update(learner, state, frozen, batch.prompts, batch.completions, objective, rows=batch.completions)


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def step_grpo_step(
    learner: Learner, state: TrainState, frozen: Params, batch: TrainBatch
) -> tuple[TrainState, Metrics]:
    """One StepGRPO update, or one of its family; see `losses.step_grpo` for the formula and its sources."""
    check_shapes(batch)
    settings, mask_BT, denominator = learner.loss, batch.rows.completions.mask_BT, batch.denominator
    if denominator is None:  # then rows are not truncated: their width is max_completion_length
        denominator = losses.denominator(mask_BT, loss_type=settings.loss_type, max_completion_length=mask_BT.shape[1])

    def objective(logp_BT: Float[Array, "B T"], rows: TrainRows) -> tuple[Float[Array, ""], Metrics]:
        loss, metrics = losses.step_grpo(
            logp_BT,
            rows.completions.mask_BT,
            rows.advantage_BT,
            old_logp_BT=rows.old_logp_BT,
            ref_logp_BT=rows.ref_logp_BT,
            beta=settings.beta,
            epsilon=settings.epsilon,
            epsilon_high=settings.epsilon_high,
            delta=settings.delta,
            loss_type=settings.loss_type,
            importance_sampling_level=settings.importance_sampling_level,
            use_bias_correction_kl=settings.use_bias_correction_kl,
            weight_BT=rows.weight_BT,
            denominator=denominator,
        )
        return loss, metrics | _sampling_difference(logp_BT, rows)

    return _apply_update(learner, state, frozen, batch.prompts, batch.rows.completions, objective, rows=batch.rows)


def _sampling_difference(logp_BT: Float[Array, "B T"], rows: TrainRows) -> Metrics:
    """Difference between the learner's and the sampler's log-probabilities for the same parameters, in nats."""
    mask_BT = rows.completions.mask_BT
    same_policy_BT = logp_BT if rows.old_logp_BT is None else rows.old_logp_BT
    difference_BT = jnp.where(mask_BT, jnp.abs(same_policy_BT - rows.sampling_logp_BT), 0.0)
    return {
        "sampling/sampling_logp_difference/max": jnp.max(difference_BT),
        "sampling/sampling_logp_difference/mean": jnp.sum(difference_BT) / jnp.maximum(jnp.sum(mask_BT), 1),
    }


def _apply_update(
    learner: Learner,
    state: TrainState,
    frozen: Params,
    prompts: PromptBatch,
    completions: Completions,
    objective: Objective,
    *,
    rows: Rows,
) -> tuple[TrainState, Metrics]:
    """Applies one gradient; if it is not finite, only `step` and `num_skipped` change."""
    gradient, logp_BT, entropy_BT, gradient_metrics = accumulate_gradients(
        learner, state.params, frozen, prompts, completions, objective, rows
    )
    gradient = learner.with_sharding(gradient)
    # The loss of the whole batch, from the log-probs of the forward passes that gave the gradient.
    loss, metrics = objective(logp_BT, rows)
    grad_norm = optax.global_norm(gradient)
    is_finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

    def apply(params: Params, opt_state: optax.OptState) -> tuple[Any, Any]:
        updates, opt_state = learner.optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def keep(params: Params, opt_state: optax.OptState) -> tuple[Any, Any]:
        return params, opt_state

    # On CPU `where` copies both Adam moments, so `cond`; on TPU `cond` costs 6 GiB a chip (7B, v6e-8).
    old = state.params, state.opt_state
    if learner.definition.platform == "cpu":
        params, opt_state = jax.lax.cond(is_finite, apply, keep, *old)
    else:
        params, opt_state = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), apply(*old), old)
    num_skipped = state.num_skipped + ~is_finite
    entropy = jnp.sum(entropy_BT) / jnp.maximum(jnp.sum(completions.mask_BT), 1)
    metrics = metrics | {"loss": loss, "grad_norm": grad_norm, "entropy": entropy, "num_skipped": num_skipped}
    return learner.with_sharding(TrainState(state.step + 1, params, opt_state, num_skipped)), metrics | gradient_metrics
