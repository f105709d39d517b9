"""What completions earn, as the configuration weighs it: step rewards and functions of the user's own."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from r1vl_jax import rewards
from r1vl_jax.arrays import Array, Completions, RewardSections, bundle
from r1vl_jax.config import Reward
from r1vl_jax.rewards import Answers, KeySteps, StepReward
from r1vl_jax.rewards.custom import Custom
from r1vl_jax.rewards.text import Vocabulary

_SECTIONS_BUCKET = 8  # the number of sections is padded to a multiple of this, so that few programs are compiled


@bundle
class RewardOutput:
    """What the completions of a draw earned.

    Attributes:
        reward: every part of StepGRPO's reward.
        custom: what each function of the user's own gave, unweighted, by name; NaN where one does not apply.
        total_B: the weighted sum that is compared within groups.
        undecided_B: what the kernels left undecided, before the host was asked.
        overflow_B: completions with more bytes than the kernels look at.
    """

    reward: StepReward
    custom: dict[str, Float[Array, " B"]]
    total_B: Float[Array, " B"]
    undecided_B: Bool[Array, " B"]
    overflow_B: Bool[Array, " B"]


@bundle
class RewardTargets:
    """What the kernels compare the completions of P prompts with."""

    key_steps: KeySteps
    answers: Answers


@dataclass(frozen=True)
class RewardSpec:
    """How rewards are weighed; a static argument of jitted functions.

    Attributes:
        functions: of the user's own, with their weights.
    """

    settings: Reward
    functions: tuple[Custom, ...] = ()

    def total(self, reward: StepReward, custom: dict[str, Float[Array, " B"]]) -> Float[Array, " B"]:
        """The weighted sum of all that was earned; what does not apply counts 0."""
        accuracy_weight, validity_weight = self.settings.reward_weights
        total_B = accuracy_weight * reward.step_accuracy + validity_weight * reward.step_validity
        for function in self.functions:
            value_B = custom[function.name]
            library = jnp if isinstance(value_B, jax.Array) else np  # what is on the host waits for no device
            total_B = total_B + function.weight * library.where(library.isnan(value_B), 0.0, value_B)
        return total_B


def compute_rewards_on_device(
    scheme: RewardSpec, completions: Completions, questions: RewardTargets, vocabulary: Vocabulary
) -> RewardOutput:
    """What completions earn by kernels and pure functions alone, without the host: undecided answers are wrong."""
    settings, (num_rows, length) = scheme.settings, completions.token_BT.shape
    byte_BU, length_B, _, overflow_B = rewards.text.token_bytes(
        completions.token_BT, completions.mask_BT, vocabulary, max_bytes=settings.max_bytes_per_token * length
    )
    num_generations = num_rows // questions.key_steps.num_groups_B.shape[0]
    rows = jax.tree.map(lambda leaf: jnp.repeat(leaf, num_generations, axis=0), questions)
    question = (rows.key_steps, rows.answers)
    reward = rewards.kernels.step_reward(
        byte_BU, length_B, *question, semantics=settings.semantics, alpha=settings.alpha
    )
    pure = [function for function in scheme.functions if function.is_pure]
    custom = {function.name: function.on_device(byte_BU, length_B, *question) for function in pure}
    total_B = replace(scheme, functions=tuple(pure)).total(reward, custom)
    return RewardOutput(reward, custom, total_B, reward.undecided, overflow_B)


def assign_rewards_to_sections(
    reward: StepReward,
    total_B: Float[Array, " B"],
    accuracy_weight: float,
    size_BT: Int[Array, "B T"],
    *,
    num_sections: int = 0,
) -> RewardSections:
    """Where each reward was earned; what is neither correctness nor a key step is paid in the last section.

    Args:
        total_B: all that was earned, in reward units; sections of a row sum to it.
        accuracy_weight: of StepRAR in the total.
        size_BT: bytes of text of each token.
        num_sections: room for so many at least.
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
