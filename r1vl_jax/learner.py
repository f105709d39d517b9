"""The learning step: log-probabilities of given completions, gradients, and the optimizer's update.

Four programs are compiled from here, on arrays alone:

    score           params, prompts, completions -> log-probabilities and entropies, no gradient (the reference)
    warmup_step     TrainState, frozen parameters, WarmupBatch -> TrainState, metrics
    step_grpo_step  TrainState, frozen parameters, TrainBatch  -> TrainState, metrics
    fused_step      TrainState, frozen parameters, prompts, what their answers are -> TrainState, metrics, Generated:
                    sampling, rewards, reference and update in one
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from r1vl_jax import losses
from r1vl_jax.arrays import (
    Completions,
    Params,
    PromptBatch,
    Rollout,
    SampledRows,
    TrainBatch,
    TrainRows,
    WarmupBatch,
    bundle,
    check_shapes,
)
from r1vl_jax.comparison import compare, penalised
from r1vl_jax.config import Loss
from r1vl_jax.config.mesh import divisors
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.rewarding import Earned, Questions, Scheme, earned_on_device, place_rewards
from r1vl_jax.rewards.text import Vocabulary, token_sizes
from r1vl_jax.sampling.loop import sample
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.scoring import Sequences, completion_logp, join
from r1vl_jax.sharding import num_batch_shards, shardings
from r1vl_jax.trainable import combine

Metrics = dict[str, Float[Array, ""]]
# (logp_BT, rows) -> loss, metrics; `rows` is any pytree of arrays with leading axis B.
Rows = Any
Shape = tuple[int, ...]
Objective = Callable[[Float[Array, "B T"], Rows], tuple[Float[Array, ""], Metrics]]


@bundle
class TrainState:
    """All that an update changes. Neither the frozen reference nor frozen parameters are part of it.

    Attributes:
        step: updates done, skipped ones included.
        params: float32 master weights of what is trained; `trainable.combine` completes them.
        opt_state: the optimizer's moments and count.
        num_skipped: updates not applied because loss or gradient was not finite.
    """

    step: Int[Array, ""]
    params: Params
    opt_state: optax.OptState
    num_skipped: Int[Array, ""]


@dataclass(frozen=True)
class Learner:
    """The settings of scoring and updating that stay fixed over a stage; a static argument of the jitted steps.

    Attributes:
        optimizer: gradients -> updates, its schedule included.
        chunk_size: a device holds as many logits at one time as this many tokens have.
        temperature: divides the logits of every log-probability in the loss.
        micro_batches: parts of the rows that are differentiated one after another; each has rows of every device. The
            rows of a part that belong to one prompt are read behind it together.
        tokens_per_micro_batch: where it is not 0, parts are as few as have at most so many tokens on each device.
        loss: settings of the objective (StepGRPO only).
    """

    definition: Definition
    optimizer: optax.GradientTransformation
    chunk_size: int
    temperature: float = 1.0
    micro_batches: int = 1
    tokens_per_micro_batch: int = 0
    loss: Loss = Loss()

    def placed(self, tree: Any) -> Any:
        """Parameters, or what has their paths, where the table places them. Left to itself, the compiler moves them."""
        mesh = self.definition.mesh
        return tree if mesh is None else jax.lax.with_sharding_constraint(tree, shardings(tree, mesh))

    def num_sequences(self, num_prompts: int, num_rows: int, *, num_parts: int = 1) -> int:
        """How many sequences are read: one a prompt, or as many more as give every device some of every part."""
        needed = num_parts * self._num_shards
        counts = [num_prompts * size for size in divisors(num_rows // num_prompts)]
        return next((count for count in counts if count % needed == 0), num_rows)

    def num_parts(self, prompts: Shape, completions: Shape) -> int:
        """How many parts the rows of these shapes, padding included, are differentiated in; at most a row a device.

        Args:
            prompts, completions: [P, S] and [B, T].
        """
        if self.tokens_per_micro_batch == 0:
            return self.micro_batches
        (num_prompts, prompt_length), (num_rows, completion_length) = prompts, completions
        sizes = divisors(num_rows // self._num_shards)

        def tokens(num_parts: int) -> float:
            num_sequences = self.num_sequences(num_prompts, num_rows, num_parts=num_parts)
            total = num_sequences * prompt_length + num_rows * completion_length
            return total / num_parts / self._num_shards

        return next((size for size in sizes if tokens(size) <= self.tokens_per_micro_batch), sizes[-1])

    @property
    def _num_shards(self) -> int:
        """Parts of a batch, one or more devices each."""
        return num_batch_shards(self.definition.mesh)

    def init(self, params: Params) -> TrainState:
        """The state before the first update of these trained parameters."""

        @jax.jit  # one program, not one for every shape
        def moments(params: Params) -> optax.OptState:
            return self.placed(self.optimizer.init(params))

        return TrainState(jnp.int32(0), params, moments(params), jnp.int32(0))


@partial(jax.jit, static_argnums=0)
def score(
    learner: Learner, params: Params, prompts: PromptBatch, completions: Completions
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Log-probability and entropy of every completion token, in nats; 0 outside the mask."""
    check_shapes(completions)
    feature_MD = learner.definition.bind(params).image_features(prompts.vision)
    num_sequences = learner.num_sequences(len(prompts.token_PS), len(completions.token_BT))
    sequences = join(prompts, completions, num_sequences=num_sequences)
    return _logp(learner, params, feature_MD, sequences, completions)


def refer(
    learner: Learner, params: Params, reference: Params | None, prompts: PromptBatch, rollout: Rollout
) -> SampledRows:
    """Adds to a rollout what its comparison and the loss need to know of it.

    Args:
        params: of the policy that sampled.
        reference: the frozen reference; None where nothing needs it.
    """
    policy_logp_BT = entropy_BT = ref_logp_BT = None
    if reference is not None:
        ref_logp_BT, _ = score(learner, reference, prompts, rollout.completions)
    if learner.loss.needs_policy_scores:
        policy_logp_BT, entropy_BT = score(learner, params, prompts, rollout.completions)
    return SampledRows(
        rollout.completions, rollout.has_ended_B, rollout.logp_BT, policy_logp_BT, entropy_BT, ref_logp_BT
    )


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def warmup_step(learner: Learner, state: TrainState, frozen: Params, batch: WarmupBatch) -> tuple[TrainState, Metrics]:
    """One supervised update; the loss is over completion tokens only."""
    check_shapes(batch)
    denominator = jnp.sum(batch.completions.mask_BT)

    def objective(logp_BT: Float[Array, "B T"], rows: Completions) -> tuple[Float[Array, ""], Metrics]:
        return losses.supervised(logp_BT, rows.mask_BT, denominator=denominator)

    return _update(learner, state, frozen, batch.prompts, batch.completions, objective, rows=batch.completions)


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def step_grpo_step(
    learner: Learner, state: TrainState, frozen: Params, batch: TrainBatch
) -> tuple[TrainState, Metrics]:
    """One StepGRPO update (SPEC 1.4), or of its family (SPEC 2)."""
    check_shapes(batch)
    settings, mask_BT, denominator = learner.loss, batch.rows.completions.mask_BT, batch.denominator
    if denominator is None:  # rows are as long as a completion may be
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

    return _update(learner, state, frozen, batch.prompts, batch.rows.completions, objective, rows=batch.rows)


@dataclass(frozen=True)
class Program:
    """What stays fixed over fused steps; a static argument."""

    learner: Learner
    sampler: Sampler
    scheme: Scheme


@bundle
class Generated:
    """What a fused step did on the way to its update.

    Attributes:
        reward_PG: what is compared within groups.
        advantage_BT: as in `TrainRows`.
    """

    sampled: SampledRows
    earned: Earned
    reward_PG: Float[Array, "P G"]
    advantage_BT: Float[Array, "B T"]


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def fused_step(
    program: Program,
    state: TrainState,
    frozen: Params,
    reference: Params | None,
    prompts: PromptBatch,
    questions: Questions,
    vocabulary: Vocabulary,
    key: Key[Array, ""],
) -> tuple[TrainState, Metrics, Generated]:
    """One step of StepGRPO from prompts to updated parameters, as the staged loop does it with the same key.

    Args:
        reference: the frozen reference; None where the loss needs none.
        questions: key steps and answers of the prompts, see `rewarding.Packer`.
        vocabulary: bytes of the tokens.
    """
    learner, params = program.learner, combine(state.params, frozen)
    rollout = sample(program.sampler.on_trainer_mesh(), params, prompts, key)
    sampled = refer(learner, params, reference, prompts, rollout)
    earned = earned_on_device(program.scheme, rollout.completions, questions, vocabulary)
    total_B = penalised(learner.loss, earned.total_B, rollout.completions)
    reward_PG = total_B.reshape(-1, program.sampler.num_generations)
    sections = None
    if learner.loss.credit == "step":
        accuracy_weight, _ = program.scheme.settings.reward_weights
        sections = place_rewards(
            earned.reward, total_B, accuracy_weight, token_sizes(rollout.completions.token_BT, vocabulary)
        )
    rows = compare(learner.loss, sampled, reward_PG, sections)
    state, metrics = step_grpo_step(learner, state, frozen, TrainBatch(prompts, rows))
    return state, metrics, Generated(sampled, earned, reward_PG, rows.advantage_BT)


def _sampling_difference(logp_BT: Float[Array, "B T"], rows: TrainRows) -> Metrics:
    """How far the learner's log-probabilities are from those the sampler reported for the same parameters, in nats."""
    mask_BT = rows.completions.mask_BT
    same_policy_BT = logp_BT if rows.old_logp_BT is None else rows.old_logp_BT
    difference_BT = jnp.where(mask_BT, jnp.abs(same_policy_BT - rows.sampling_logp_BT), 0.0)
    return {
        "sampling/sampling_logp_difference/max": jnp.max(difference_BT),
        "sampling/sampling_logp_difference/mean": jnp.sum(difference_BT) / jnp.maximum(jnp.sum(mask_BT), 1),
    }


def _update(
    learner: Learner,
    state: TrainState,
    frozen: Params,
    prompts: PromptBatch,
    completions: Completions,
    objective: Objective,
    *,
    rows: Rows,
) -> tuple[TrainState, Metrics]:
    """Applies one gradient, unless it is not finite: then only `step` and `num_skipped` change."""
    gradient, logp_BT, entropy_BT = _gradient(learner, state.params, frozen, prompts, completions, objective, rows)
    gradient = learner.placed(gradient)
    loss, metrics = objective(logp_BT, rows)
    grad_norm = optax.global_norm(gradient)
    is_finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

    def apply(params: Params, opt_state: optax.OptState) -> tuple[Any, Any]:
        updates, opt_state = learner.optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def keep(params: Params, opt_state: optax.OptState) -> tuple[Any, Any]:
        return params, opt_state

    # Before a choice number by number XLA for CPU copies both moments; for a branch the TPU's compiler needs more (7B
    # on v6e-8: 6 GiB a chip).
    old = state.params, state.opt_state
    if learner.definition.platform == "cpu":
        params, opt_state = jax.lax.cond(is_finite, apply, keep, *old)
    else:
        params, opt_state = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), apply(*old), old)
    num_skipped = state.num_skipped + ~is_finite
    entropy = jnp.sum(entropy_BT) / jnp.maximum(jnp.sum(completions.mask_BT), 1)
    metrics = metrics | {"loss": loss, "grad_norm": grad_norm, "entropy": entropy, "num_skipped": num_skipped}
    return learner.placed(TrainState(state.step + 1, params, opt_state, num_skipped)), metrics


def _gradient(
    learner: Learner,
    trained: Params,
    frozen: Params,
    prompts: PromptBatch,
    completions: Completions,
    objective: Objective,
    rows: Rows,
) -> tuple[Params, Float[Array, "B T"], Float[Array, "B T"]]:
    """Gradient of the objective by what is trained, with log-probabilities and entropies met on the way.

    The vision tower runs once: its features are an input of every micro-batch, and the sum of what flows back to them
    goes through the tower at the end, as far down as something is trained.
    """

    def features(trained: Params) -> Float[Array, "M D"]:
        return learner.definition.bind(combine(trained, frozen)).image_features(prompts.vision)

    def loss_of_part(trained: Params, feature_MD: Float[Array, "M D"], part: Any):
        sequences, completions, rows = part
        logp_BT, entropy_BT = _logp(learner, combine(trained, frozen), feature_MD, sequences, completions)
        return objective(logp_BT, rows)[0], (logp_BT, entropy_BT)

    def accumulate(total: Any, part: Any):
        gradient, report = jax.grad(loss_of_part, argnums=(0, 1), has_aux=True)(trained, feature_MD, part)
        return jax.tree.map(jnp.add, total, gradient), report

    feature_MD, features_vjp = jax.vjp(features, trained)
    num_parts = learner.num_parts(prompts.token_PS.shape, completions.token_BT.shape)
    num_sequences = learner.num_sequences(len(prompts.token_PS), len(completions.token_BT), num_parts=num_parts)
    sequences = join(prompts, completions, num_sequences=num_sequences)
    divided = partial(_divided, num_sequences=num_sequences, num_parts=num_parts)
    parts = jax.tree.map(divided, (sequences, completions, rows))
    zeros = jax.tree.map(jnp.zeros_like, (trained, feature_MD))
    (text_gradient, feature_gradient_MD), (logp, entropy) = jax.lax.scan(accumulate, zeros, parts)
    (vision_gradient,) = features_vjp(feature_gradient_MD)
    logp_BT, entropy_BT = (_joined(part, num_sequences=num_sequences) for part in (logp, entropy))
    return jax.tree.map(jnp.add, text_gradient, vision_gradient), logp_BT, entropy_BT


def _divided(array_B: Array, *, num_sequences: int, num_parts: int) -> Array:
    """[parts, rows of a part, ...], rows of a sequence together.

    The sequences of a part lie so far apart that every device has some of them.
    """
    by_sequence = array_B.reshape(num_sequences // num_parts, num_parts, -1, *array_B.shape[1:])
    return jnp.swapaxes(by_sequence, 0, 1).reshape(num_parts, -1, *array_B.shape[1:])


def _joined(parts: Array, *, num_sequences: int) -> Array:
    """The opposite of `_divided`."""
    num_parts = len(parts)
    by_sequence = parts.reshape(num_parts, num_sequences // num_parts, -1, *parts.shape[2:])
    return jnp.swapaxes(by_sequence, 0, 1).reshape(-1, *parts.shape[2:])


def _logp(
    learner: Learner,
    params: Params,
    feature_MD: Float[Array, "M D"],
    sequences: Sequences,
    completions: Completions,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    return completion_logp(
        learner.definition.bind(params),
        feature_MD,
        sequences,
        completions,
        chunk_size=learner.chunk_size,
        temperature=learner.temperature,
    )
