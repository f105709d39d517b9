"""The total reward: the weighted sum of StepRAR, StepRVR and user-defined reward functions."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from r1vl_jax import rewards
from r1vl_jax.arrays import Array, Completions, RewardSections, bundle
from r1vl_jax.config import Reward
from r1vl_jax.rewards import Answers, KeySteps, StepReward
from r1vl_jax.rewards.custom import RewardFunction
from r1vl_jax.rewards.text import Vocabulary

_SECTIONS_BUCKET = 8  # the number of sections is padded to a multiple of this, so that few programs are compiled


@bundle
class RewardOutput:
    """The rewards of the completions of a generation.

    Attributes:
        reward: every part of StepGRPO's reward.
        custom: unweighted rewards of each user-defined function, by name; NaN where one does not apply.
        total_B: the weighted sum, from which advantages are computed.
        undecided_B: rows that the kernels left undecided, before the host resolved them.
        overflow_B: completions of more bytes than the kernels read.
    """

    reward: StepReward
    custom: dict[str, Float[Array, " B"]]
    total_B: Float[Array, " B"]
    undecided_B: Bool[Array, " B"]
    overflow_B: Bool[Array, " B"]


@bundle
class RewardTargets:
    """Key steps and gold answers of P prompts, which the kernels compare completions with."""

    key_steps: KeySteps
    answers: Answers


@dataclass(frozen=True)
class RewardSpec:
    """The reward settings and the imported functions; a static argument of jitted functions.

    Attributes:
        functions: the user-defined ones, with their weights.
    """

    settings: Reward
    functions: tuple[RewardFunction, ...] = ()

    def total(self, reward: StepReward, custom: dict[str, Float[Array, " B"]]) -> Float[Array, " B"]:
        """The weighted sum of all rewards; a user-defined reward that does not apply counts 0."""
        accuracy_weight, validity_weight = self.settings.reward_weights
        total_B = accuracy_weight * reward.step_accuracy + validity_weight * reward.step_validity
        for function in self.functions:
            value_B = custom[function.name]
            library = jnp if isinstance(value_B, jax.Array) else np  # no transfer to the device for host arrays
            total_B = total_B + function.weight * library.where(library.isnan(value_B), 0.0, value_B)
        return total_B


def compute_rewards_on_device(
    spec: RewardSpec, completions: Completions, targets: RewardTargets, vocabulary: Vocabulary
) -> RewardOutput:
    """Rewards by the kernels and pure reward functions alone, without the host: undecided answers count as wrong."""
    settings, (num_rows, length) = spec.settings, completions.token_BT.shape
    byte_BU, length_B, _, overflow_B = rewards.text.token_bytes(
        completions.token_BT, completions.mask_BT, vocabulary, max_bytes=settings.max_bytes_per_token * length
    )
    num_generations = num_rows // targets.key_steps.num_groups_B.shape[0]
    rows = jax.tree.map(lambda leaf: jnp.repeat(leaf, num_generations, axis=0), targets)
    row_targets = (rows.key_steps, rows.answers)
    reward = rewards.kernels.step_reward(
        byte_BU, length_B, *row_targets, semantics=settings.semantics, alpha=settings.alpha
    )
    functions = [function for function in spec.functions if function.runs_on_device]
    custom = {function.name: function.call_on_device(byte_BU, length_B, *row_targets) for function in functions}
    total_B = replace(spec, functions=tuple(functions)).total(reward, custom)
    return RewardOutput(reward, custom, total_B, reward.undecided, overflow_B)


def assign_rewards_to_sections(
    reward: StepReward,
    total_B: Float[Array, " B"],
    accuracy_weight: float,
    size_BT: Int[Array, "B T"],
    *,
    num_sections: int = 0,
) -> RewardSections:
    """Splits total rewards over sections, for step-level credit.

    Key-step matches and correctness stay in their sections, weighted; the rest of the total (validity, user-defined
    rewards, penalties) goes to the last section.

    Args:
        total_B: total rewards, in reward units; the sections of a row sum to it.
        accuracy_weight: weight of StepRAR in the total.
        size_BT: bytes of text of each token.
        num_sections: least size of the axis of sections, before it is rounded up.
    """
    num_given = reward.section_end_BJ.shape[1]
    num_sections = max(num_sections, num_given)
    missing = num_sections + -num_sections % _SECTIONS_BUCKET - num_given
    section_end_BJ = jnp.pad(reward.section_end_BJ, ((0, 0), (0, missing)), constant_values=-1)
    section_reward_BJ = accuracy_weight * jnp.pad(reward.section_reward_BJ, ((0, 0), (0, missing)))
    last_B = jnp.sum(section_end_BJ >= 0, axis=1) - 1
    rest_B = total_B - jnp.sum(section_reward_BJ, axis=1)
    section_reward_BJ = section_reward_BJ.at[jnp.arange(last_B.shape[0]), last_B].add(rest_B)
    return RewardSections(section_end_BJ, section_reward_BJ, size_BT)
