"""The figures of one StepGRPO step taken on the host, under the names the field uses (NumPy in, floats out)."""

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from r1vl_jax.rewards import StepReward

_REWARD_PARTS = ("step_accuracy", "step_validity", "answer_correct", "key_step_match", "complete", "ordered")


def reward_metrics(reward: StepReward, reward_PG: Float[np.ndarray, "P G"]) -> dict[str, float]:
    """Means and spreads of the weighted total and of every part; `reward_PG` is the total that is compared."""
    metrics = {
        "reward": reward_PG.mean(),
        "reward_std": reward_PG.std(ddof=1),
        "reward_group_std": reward_PG.std(axis=1, ddof=1).mean(),
        "frac_reward_zero_std": (np.ptp(reward_PG, axis=1) == 0).mean(),
        "rewards/undecided/mean": reward.undecided.mean(),
    }
    for name in _REWARD_PARTS:
        part_B = np.asarray(getattr(reward, name), np.float64)
        metrics[f"rewards/{name}/mean"] = part_B.mean()
        metrics[f"rewards/{name}/std"] = part_B.std(ddof=1)
    return _floats(metrics)


def completion_metrics(length_B: Int[np.ndarray, " B"], has_ended_B: Bool[np.ndarray, " B"]) -> dict[str, float]:
    """Lengths in tokens, of all completions and of those that ended by themselves (0 where none did)."""
    terminated_B = length_B[has_ended_B] if has_ended_B.any() else np.zeros(1)
    metrics = {"completions/clipped_ratio": (~has_ended_B).mean()}
    for kind, lengths in (("length", length_B), ("terminated_length", terminated_B)):
        metrics[f"completions/mean_{kind}"] = lengths.mean()
        metrics[f"completions/min_{kind}"] = lengths.min()
        metrics[f"completions/max_{kind}"] = lengths.max()
    return _floats(metrics)


def _floats(metrics: dict[str, Num[np.ndarray, ""]]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}
