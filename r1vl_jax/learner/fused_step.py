"""A whole StepGRPO step as one program: sampling, rewards, reference log-probs and update, without the host."""

from dataclasses import dataclass
from functools import partial

import jax
from jaxtyping import Array, Float, Key

from r1vl_jax.arrays import Params, PromptBatch, SampledRows, TrainBatch, bundle
from r1vl_jax.learner.advantages import GroupRewards, compute_advantages, compute_group_rewards
from r1vl_jax.learner.gradients import Metrics
from r1vl_jax.learner.learner import Learner, TrainState
from r1vl_jax.learner.logprobs import add_reference_logps
from r1vl_jax.learner.steps import step_grpo_step
from r1vl_jax.models.trainable import combine
from r1vl_jax.rewards.text import Vocabulary
from r1vl_jax.rewards.weighted_sum import RewardOutput, RewardSpec, RewardTargets, compute_rewards_on_device
from r1vl_jax.sampling.loop import sample
from r1vl_jax.sampling.sampler import Sampler


@dataclass(frozen=True)
class FusedProgram:
    """What stays fixed over fused steps; a static argument."""

    learner: Learner
    sampler: Sampler
    reward_spec: RewardSpec


@bundle
class FusedOutput:
    """Intermediate results of a fused step, for metrics and logs.

    Attributes:
        rewards: of every completion, before the overlong penalty.
        group_rewards: what is compared within groups.
        advantage_BT: as in `TrainRows`.
    """

    sampled: SampledRows
    rewards: RewardOutput
    group_rewards: GroupRewards
    advantage_BT: Float[Array, "B T"]


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def fused_step(
    program: FusedProgram,
    state: TrainState,
    frozen: Params,
    reference: Params | None,
    prompts: PromptBatch,
    targets: RewardTargets,
    vocabulary: Vocabulary,
    key: Key[Array, ""],
) -> tuple[TrainState, Metrics, FusedOutput]:
    """One StepGRPO step from prompts to updated parameters; equals the staged step with the same key.

    Args:
        reference: the frozen reference; None where the loss needs none.
        targets: key steps and answers of the prompts.
        vocabulary: bytes of every token.
    """
    learner, params = program.learner, combine(state.params, frozen)
    # One program has one mesh: the sampler keeps the trainer's.
    rollout = sample(program.sampler.on_trainer_mesh(), params, prompts, key)
    sampled = add_reference_logps(learner, params, reference, prompts, rollout)
    rewards = compute_rewards_on_device(program.reward_spec, rollout.completions, targets, vocabulary)
    group_rewards = compute_group_rewards(
        learner.loss,
        program.reward_spec,
        rewards,
        rollout.completions,
        vocabulary,
        num_generations=program.sampler.num_generations,
    )
    rows = compute_advantages(learner.loss, sampled, group_rewards)
    state, metrics = step_grpo_step(learner, state, frozen, TrainBatch(prompts, rows))
    return state, metrics, FusedOutput(sampled, rewards, group_rewards, rows.advantage_BT)
