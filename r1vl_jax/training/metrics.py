"""The figures of one StepGRPO step taken on the host, under the names the field uses (NumPy in, floats out)."""

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from r1vl_jax.arrays import Array, Completions, bundle
from r1vl_jax.rewards.weighted_sum import RewardOutput

REWARD_PARTS = ("step_accuracy", "step_validity", "answer_correct", "key_step_match", "complete", "ordered")
COUNTED = ("undecided", "overflow")  # figures beside those of rewards, under the same heading
_REPEATED_LENGTH = 4  # tokens of a run that counts as repeated


def reward_metrics(earned: RewardOutput, reward_PG: Float[np.ndarray, "P G"]) -> dict[str, float]:
    """Means and spreads of the total that is compared, of every part of the reward, and of the user's own functions.

    A function that applies to no completion of the step has no figures.
    """
    metrics = {
        "reward": reward_PG.mean(),
        "reward_std": reward_PG.std(ddof=1),
        "reward_group_std": reward_PG.std(axis=1, ddof=1).mean(),
        "frac_reward_zero_std": (np.ptp(reward_PG, axis=1) == 0).mean(),
        "rewards/undecided/mean": np.mean(earned.undecided_B),
        "rewards/overflow/mean": np.mean(earned.overflow_B),
    }
    parts = {name: getattr(earned.reward, name) for name in REWARD_PARTS} | earned.custom
    for name, part_B in parts.items():
        applies_B = np.asarray(part_B, np.float64)
        applies_B = applies_B[~np.isnan(applies_B)]
        if applies_B.size:
            metrics[f"rewards/{name}/mean"] = applies_B.mean()
            metrics[f"rewards/{name}/std"] = applies_B.std(ddof=min(1, applies_B.size - 1))
    return _floats(metrics)


@bundle
class Measured:
    """What is counted in completions.

    Attributes:
        length_B: tokens.
        has_ended_B: True where a completion ended by itself.
        repetition_B: see `repeated`.
    """

    length_B: Int[np.ndarray, " B"]
    has_ended_B: Bool[np.ndarray, " B"]
    repetition_B: Float[np.ndarray, " B"]


def measure(completions: Completions, has_ended_B: Bool[Array, " B"]) -> Measured:
    """Counts in each completion."""
    token_BT, mask_BT = np.asarray(completions.token_BT), np.asarray(completions.mask_BT)
    repetition = [repeated(token_T[mask_T]) for token_T, mask_T in zip(token_BT, mask_BT, strict=True)]
    return Measured(mask_BT.sum(axis=1), np.asarray(has_ended_B), np.array(repetition))


def completion_metrics(measured: Measured) -> dict[str, float]:
    """Lengths in tokens, of all completions and of those that ended by themselves (0 where none did); repetition."""
    length_B, has_ended_B = measured.length_B, measured.has_ended_B
    terminated_B = length_B[has_ended_B] if has_ended_B.any() else np.zeros(1)
    metrics = {
        "completions/clipped_ratio": (~has_ended_B).mean(),
        "completions/repetition": measured.repetition_B.mean(),
    }
    for kind, lengths in (("length", length_B), ("terminated_length", terminated_B)):
        metrics[f"completions/mean_{kind}"] = lengths.mean()
        metrics[f"completions/min_{kind}"] = lengths.min()
        metrics[f"completions/max_{kind}"] = lengths.max()
    return _floats(metrics)


def repeated(token_T: Int[np.ndarray, " T"]) -> float:
    """Fraction of the runs of four tokens that stood in the completion before; 0 for fewer than five tokens."""
    if len(token_T) <= _REPEATED_LENGTH:
        return 0.0
    runs = np.lib.stride_tricks.sliding_window_view(token_T, _REPEATED_LENGTH)
    return 1.0 - len(np.unique(runs, axis=0)) / len(runs)


def _floats(metrics: dict[str, Num[np.ndarray, ""]]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}
