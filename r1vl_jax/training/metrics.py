"""Metrics of one StepGRPO step that are computed on the host, under TRL's names (NumPy in, floats out)."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from r1vl_jax.arrays import Array, Completions, bundle
from r1vl_jax.rewards.weighted_sum import RewardOutput

REWARD_PARTS = ("step_accuracy", "step_validity", "answer_correct", "key_step_match", "complete", "ordered")
COUNTED = ("undecided", "overflow")  # logged beside the rewards, under the same prefix
_REPEATED_LENGTH = 4  # tokens of an n-gram that counts as repeated


def reward_metrics(rewards: RewardOutput, reward_PG: Float[np.ndarray, "P G"]) -> dict[str, float]:
    """Mean and standard deviation of the total reward, of every part of it, and of the user's own functions.

    A function that applies to no completion of the step has no metrics.
    """
    metrics = {
        "reward": reward_PG.mean(),
        "reward_std": reward_PG.std(ddof=1),
        "reward_group_std": reward_PG.std(axis=1, ddof=1).mean(),
        "frac_reward_zero_std": (np.ptp(reward_PG, axis=1) == 0).mean(),
        "rewards/undecided/mean": np.mean(rewards.undecided_B),
        "rewards/overflow/mean": np.mean(rewards.overflow_B),
    }
    parts = {name: getattr(rewards.reward, name) for name in REWARD_PARTS} | rewards.custom
    for name, part_B in parts.items():
        applies_B = np.asarray(part_B, np.float64)
        applies_B = applies_B[~np.isnan(applies_B)]
        if applies_B.size:
            metrics[f"rewards/{name}/mean"] = applies_B.mean()
            metrics[f"rewards/{name}/std"] = applies_B.std(ddof=min(1, applies_B.size - 1))
    return _floats(metrics)


@bundle
class CompletionStats:
    """What is counted in each completion.

    Attributes:
        length_B: tokens.
        has_ended_B: True where a completion ended with an end-of-sequence token.
        repetition_B: see `repetition`.
    """

    length_B: Int[np.ndarray, " B"]
    has_ended_B: Bool[np.ndarray, " B"]
    repetition_B: Float[np.ndarray, " B"]


def completion_stats(completions: Completions, has_ended_B: Bool[Array, " B"]) -> CompletionStats:
    """Counts tokens and repetition in each completion."""
    token_BT, mask_BT = np.asarray(completions.token_BT), np.asarray(completions.mask_BT)
    values = [repetition(token_T[mask_T]) for token_T, mask_T in zip(token_BT, mask_BT, strict=True)]
    return CompletionStats(mask_BT.sum(axis=1), np.asarray(has_ended_B), np.array(values))


def completion_metrics(stats: CompletionStats) -> dict[str, float]:
    """Lengths in tokens, of all completions and of those that ended by themselves (0 where none did); repetition.

    Nothing, where there are no completions.
    """
    if not len(stats.length_B):
        return {}
    length_B, has_ended_B = stats.length_B, stats.has_ended_B
    terminated_B = length_B[has_ended_B] if has_ended_B.any() else np.zeros(1)
    metrics = {
        "completions/clipped_ratio": (~has_ended_B).mean(),
        "completions/repetition": stats.repetition_B.mean(),
    }
    for kind, lengths in (("length", length_B), ("terminated_length", terminated_B)):
        metrics[f"completions/mean_{kind}"] = lengths.mean()
        metrics[f"completions/min_{kind}"] = lengths.min()
        metrics[f"completions/max_{kind}"] = lengths.max()
    return _floats(metrics)


def episode_metrics(
    ended: Sequence[str], metrics: Sequence[Mapping[str, float]], *, num_turns: int
) -> dict[str, float]:
    """Turns of an episode and its metrics, on average; and which fraction of the episodes ended for which reason.

    Args:
        ended, metrics: of each episode, see `multi_turn.Episode`.
        num_turns: of all of them together.
    """
    reasons = {f"episodes/ended/{reason}": count / len(ended) for reason, count in Counter(ended).items() if reason}
    means = {f"episodes/{name}": float(np.mean([each[name] for each in metrics])) for name in metrics[0]}
    return {"episodes/mean_turns": num_turns / len(ended), **means, **reasons}


def repetition(token_T: Int[np.ndarray, " T"]) -> float:
    """Fraction of the 4-grams of tokens that occurred before in the completion; 0 for fewer than five tokens."""
    if len(token_T) <= _REPEATED_LENGTH:
        return 0.0
    ngrams = np.lib.stride_tricks.sliding_window_view(token_T, _REPEATED_LENGTH)
    return 1.0 - len(np.unique(ngrams, axis=0)) / len(ngrams)


def _floats(metrics: dict[str, Num[np.ndarray, ""]]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}
