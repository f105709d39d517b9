"""A whole step of StepGRPO as one program: sampling, rewards, reference and update."""

from dataclasses import dataclass
from functools import partial

import jax
from jaxtyping import Array, Float, Key

from r1vl_jax.arrays import (
    Params,
    PromptBatch,
    SampledRows,
    TrainBatch,
    bundle,
)
from r1vl_jax.learner.advantages import apply_overlong_penalty, compute_advantages
from r1vl_jax.learner.gradients import Metrics
from r1vl_jax.learner.learner import Learner, TrainState
from r1vl_jax.learner.logprobs import add_reference_logps
from r1vl_jax.learner.steps import step_grpo_step
from r1vl_jax.models.trainable import combine
from r1vl_jax.rewards.text import Vocabulary, token_sizes
from r1vl_jax.rewards.weighted_sum import (
    RewardOutput,
    RewardSpec,
    RewardTargets,
    assign_rewards_to_sections,
    compute_rewards_on_device,
)
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
    """What a fused step did on the way to its update.

    Attributes:
        reward_PG: what is compared within groups.
        advantage_BT: as in `TrainRows`.
    """

    sampled: SampledRows
    rewards: RewardOutput
    reward_PG: Float[Array, "P G"]
    advantage_BT: Float[Array, "B T"]


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def fused_step(
    program: FusedProgram,
    state: TrainState,
    frozen: Params,
    reference: Params | None,
    prompts: PromptBatch,
    questions: RewardTargets,
    vocabulary: Vocabulary,
    key: Key[Array, ""],
) -> tuple[TrainState, Metrics, FusedOutput]:
    """One step of StepGRPO from prompts to updated parameters, as the staged loop does it with the same key.

    Args:
        reference: the frozen reference; None where the loss needs none.
        questions: key steps and answers of the prompts, see `rewarding.Packer`.
        vocabulary: bytes of the tokens.
    """
    learner, params = program.learner, combine(state.params, frozen)
    rollout = sample(program.sampler.on_trainer_mesh(), params, prompts, key)
    sampled = add_reference_logps(learner, params, reference, prompts, rollout)
    earned = compute_rewards_on_device(program.reward_spec, rollout.completions, questions, vocabulary)
    total_B = apply_overlong_penalty(learner.loss, earned.total_B, rollout.completions)
    reward_PG = total_B.reshape(-1, program.sampler.num_generations)
    sections = None
    if learner.loss.credit == "step":
        accuracy_weight, _ = program.reward_spec.settings.reward_weights
        sections = assign_rewards_to_sections(
            earned.reward, total_B, accuracy_weight, token_sizes(rollout.completions.token_BT, vocabulary)
        )
    rows = compute_advantages(learner.loss, sampled, reward_PG, sections)
    state, metrics = step_grpo_step(learner, state, frozen, TrainBatch(prompts, rows))
    return state, metrics, FusedOutput(sampled, earned, reward_PG, rows.advantage_BT)
