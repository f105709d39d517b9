"""Settings of the objective, under TRL's names where TRL has them, and their validation. See docs/losses.md."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Loss:
    """The objective of the stage `step_grpo`, and how often a generation is used. The defaults are StepGRPO.

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
        beta: weight of the KL to the frozen reference, in loss per nat; 0 does not run the reference.
        report_kl: with beta 0, run the reference all the same, so that the KL is reported.
        use_bias_correction_kl: multiplies the KL term by the probability ratio.
        epsilon: how far the ratio may fall below 1 before it is clipped.
        epsilon_high: how far it may rise above 1; None: `epsilon`. For "cispo", the upper bound of the ratio itself.
        delta: upper bound of the ratio where the advantage is negative; None: no bound.
        importance_sampling_level: "token", or "sequence": one ratio for a completion.
        scale_rewards: advantages are divided by the standard deviation of the rewards of the "group", of the "batch" (a
            generation), or not at all ("none").
        credit: which tokens a reward is credited to. "trajectory": one advantage for all tokens of a completion; "step"
            (step-level credit): one for each section, from the rewards of that section and later ones.
        egsw_level: entropy-guided sequence weighting by "trajectory" or by decoding "step"; "" is off.
        egsw_entropy_weight: weight of the entropy, in standard deviations per nat.
        egsw_temperature: of the softmax over the samples of a group, in standard deviations; greater than 0.
        mask_truncated_completions: masks completions that reached the length limit out of the loss.
        soft_punish_cache: tokens before the length limit over which a penalty grows to -1; 0 is off.
        dynamic_sample: resamples other prompts for groups whose rewards have zero standard deviation.
        max_resample_times: at most this many resamplings; groups of zero standard deviation fill up what is missing.
        num_iterations: how often the completions of a generation are used.
        steps_per_generation: a generation samples the prompts of this many updates.
        temperature_in_loss: whether log-probabilities are of the tempered distribution, in sampler, reference and loss.
        logp_chunk_size: tokens whose logits a device holds at a time.
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
        """Whether the frozen reference is run."""
        return self.beta > 0 or self.report_kl

    @property
    def needs_policy_logps(self) -> bool:
        """Whether log-probs of the sampling policy are computed, before the first update of a generation."""
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
    """One message for each contradiction in `loss`; `config` is a `config.Config`."""
    loss = config.loss
    if loss.loss_type == "cispo" and loss.epsilon_high is None:
        yield "loss.loss_type='cispo' needs loss.epsilon_high, the upper bound of the ratio, but it is None; set 5.0"
    yield from _delta_errors(loss)
    if loss.use_bias_correction_kl and loss.beta == 0:
        yield "loss.use_bias_correction_kl changes the KL term, but loss.beta is 0; set loss.beta, or unset it"
    if loss.soft_punish_cache > config.sampling.max_completion_length:
        yield (
            f"loss.soft_punish_cache={loss.soft_punish_cache} exceeds sampling.max_completion_length="
            f"{config.sampling.max_completion_length}; set a fifth of it"
        )
    if loss.updates_per_generation > 1 and config.train.save_steps % loss.updates_per_generation:
        yield (
            f"train.save_steps={config.train.save_steps} is not a multiple of loss.num_iterations x"
            f" loss.steps_per_generation={loss.updates_per_generation}: a run resumes at the start of a generation; set"
            f" {-(-config.train.save_steps // loss.updates_per_generation) * loss.updates_per_generation}"
        )


def _delta_errors(loss: Loss) -> Iterator[str]:
    upper = 1.0 + (loss.epsilon if loss.epsilon_high is None else loss.epsilon_high)
    if loss.delta is None:
        return
    if loss.loss_type == "cispo":
        yield f"loss.delta={loss.delta} has no effect with loss.loss_type='cispo'; unset it"
    elif loss.delta <= upper:
        yield f"loss.delta={loss.delta}: expected more than 1 + the upper epsilon, {upper}"
