"""The settings of the StepGRPO stage's objective, under the names the field uses, and what contradicts what."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Loss:
    """The objective, and how often a sampled completion is learned from. The defaults are StepGRPO.

    Named recipes:

        DAPO        loss_type="dapo", epsilon_high=0.28, beta=0.0, mask_truncated_completions=True, dynamic_sample=True,
                    soft_punish_cache=(a fifth of sampling.max_completion_length)
        Dr. GRPO    loss_type="dr_grpo", scale_rewards="none", beta=0.0
        GSPO        importance_sampling_level="sequence", epsilon=3e-4, epsilon_high=4e-4, beta=0.0,
                    steps_per_generation=4
        CISPO       loss_type="cispo", epsilon_high=5.0, beta=0.0
        EGSW        egsw_level="trajectory" or "step"

    Attributes:
        loss_type: "grpo", "bnpo", "dr_grpo", "dapo" or "cispo"; see `losses.step_grpo` and `losses.denominator`.
        beta: weight of the KL to the frozen reference.
        report_kl: with beta 0, whether the reference is run all the same, so that the KL is reported.
        use_bias_correction_kl: multiplies the KL term by the probability ratio.
        epsilon: how far the ratio may fall below 1 before it is clipped.
        epsilon_high: how far it may rise above 1, None takes `epsilon`; for "cispo" the bound of the ratio itself.
        delta: bound of the ratio where the advantage is negative; None is none.
        importance_sampling_level: "token", or "sequence": one ratio for a completion.
        scale_rewards: advantages are divided by the spread of the "group", of the "batch" (of a generation), or not at
            all ("none").
        credit: "trajectory", one advantage for a completion, or "step", one for each of its sections.
        egsw_level: entropy-guided sequence weighting by "trajectory" or "step"; "" is off.
        egsw_entropy_weight: standard deviations per nat.
        egsw_temperature: standard deviations; greater than 0.
        mask_truncated_completions: leaves completions that reached the limit out of the loss.
        soft_punish_cache: tokens before the limit over which a penalty grows to -1; 0 is off.
        dynamic_sample: draws other prompts for groups whose rewards are all equal.
        max_resample_times: draws after the first, at most; what is lacking then is filled with groups of equal rewards.
        num_iterations: how often the completions of a generation are learned from.
        steps_per_generation: updates' worth of prompts that one generation draws.
        temperature_in_loss: whether log-probabilities are of the tempered distribution, in sampler, reference and loss.
        logp_chunk_size: a device holds as many logits at one time as this many tokens have.
    """

    loss_type: str = "grpo"
    beta: float = 0.04
    report_kl: bool = False
    use_bias_correction_kl: bool = False
    epsilon: float = 0.2
    epsilon_high: float | None = None
    delta: float | None = None
    importance_sampling_level: str = "token"
    scale_rewards: str = "group"
    credit: str = "trajectory"
    egsw_level: str = ""
    egsw_entropy_weight: float = 1.0
    egsw_temperature: float = 1.0
    mask_truncated_completions: bool = False
    soft_punish_cache: int = 0
    dynamic_sample: bool = False
    max_resample_times: int = 3
    num_iterations: int = 1
    steps_per_generation: int = 1
    temperature_in_loss: bool = False
    logp_chunk_size: int = 1024

    @property
    def updates_per_generation(self) -> int:
        return self.num_iterations * self.steps_per_generation

    @property
    def needs_reference(self) -> bool:
        """Whether the frozen reference is run at all."""
        return self.beta > 0 or self.report_kl

    @property
    def needs_policy_logps(self) -> bool:
        """Whether completions are scored by the policy that sampled them, before the first update from them."""
        return self.updates_per_generation > 1 or self.egsw_level != ""


CHOICES = {
    "loss.loss_type": ("grpo", "bnpo", "dr_grpo", "dapo", "cispo"),
    "loss.importance_sampling_level": ("token", "sequence"),
    "loss.scale_rewards": ("group", "batch", "none"),
    "loss.credit": ("trajectory", "step"),
    "loss.egsw_level": ("", "trajectory", "step"),
}

# (setting, test, what is expected)
RANGES = (
    ("loss.beta", lambda x: x >= 0, "at least 0"),
    ("loss.epsilon", lambda x: x >= 0, "at least 0"),
    ("loss.epsilon_high", lambda x: x is None or x >= 0, "at least 0, or None"),
    ("loss.egsw_temperature", lambda x: x > 0, "more than 0"),
    ("loss.soft_punish_cache", lambda x: x >= 0, "at least 0"),
    ("loss.max_resample_times", lambda x: x >= 1, "at least 1"),
    ("loss.num_iterations", lambda x: x >= 1, "at least 1"),
    ("loss.steps_per_generation", lambda x: x >= 1, "at least 1"),
    ("loss.logp_chunk_size", lambda x: x >= 1, "at least 1"),
)


def validate_loss(config: Any) -> Iterator[str]:
    """One sentence for each setting of `loss` that does not go with another; `config` is a `config.Config`."""
    loss = config.loss
    if loss.loss_type == "cispo" and loss.epsilon_high is None:
        yield "loss.loss_type='cispo' needs loss.epsilon_high, the bound of the ratio, but it is None; set 5.0"
    yield from _faults_of_delta(loss)
    if loss.use_bias_correction_kl and loss.beta == 0:
        yield "loss.use_bias_correction_kl changes the KL term, but loss.beta is 0; set it, or leave the correction out"
    if loss.soft_punish_cache > config.sampling.max_completion_length:
        yield (
            f"loss.soft_punish_cache={loss.soft_punish_cache} exceeds sampling.max_completion_length="
            f"{config.sampling.max_completion_length}; set a fifth of it"
        )
    if loss.updates_per_generation > 1 and config.train.save_steps % loss.updates_per_generation:
        yield (
            f"train.save_steps={config.train.save_steps} is no multiple of loss.num_iterations x"
            f" loss.steps_per_generation={loss.updates_per_generation}: a run resumes where a generation begins; set"
            f" {-(-config.train.save_steps // loss.updates_per_generation) * loss.updates_per_generation}"
        )


def _faults_of_delta(loss: Loss) -> Iterator[str]:
    upper = 1.0 + (loss.epsilon if loss.epsilon_high is None else loss.epsilon_high)
    if loss.delta is None:
        return
    if loss.loss_type == "cispo":
        yield f"loss.delta={loss.delta} has no meaning for loss.loss_type='cispo'; leave it out"
    elif loss.delta <= upper:
        yield f"loss.delta={loss.delta}: expected more than 1 + the upper epsilon, {upper}"
