"""Tells when the reward rises while held-out accuracy falls: the policy has found what pays, not what is right."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

_STANDARD_ERRORS = 2.0  # of the difference of two accuracies; less is chance


def alarm(lines: Sequence[Mapping[str, Any]], *, stage: str, num_problems: int) -> str | None:
    """What is wrong, in a sentence; None if nothing is.

    Compares the last evaluation with the best before it, and the mean rewards of the updates that led to each.

    Args:
        lines: of `metrics.jsonl`, the last evaluation included.
        stage: the stage whose lines count.
        num_problems: problems of an evaluation.
    """
    lines = [line for line in lines if line["stage"] == stage]
    evaluations = [(line["step"], line["eval/accuracy"]) for line in lines if line.get("eval/accuracy") is not None]
    reward_of = {line["step"]: line["reward"] for line in lines if line.get("reward") is not None}
    means, first = [], 1
    for step, accuracy in evaluations:
        rewards = [reward_of[s] for s in range(first, step + 1) if s in reward_of]
        if rewards:
            means.append((step, accuracy, sum(rewards) / len(rewards)))
        first = step + 1
    if len(means) < 2:
        return None
    *earlier, (step, accuracy, reward) = means
    best_step, best, reward_then = max(earlier, key=lambda mean: mean[1])
    error = math.sqrt((best * (1 - best) + accuracy * (1 - accuracy)) / num_problems)
    if accuracy >= best - _STANDARD_ERRORS * error or reward <= reward_then:
        return None
    return (
        f"step {step}: held-out accuracy fell to {accuracy:.3f} from {best:.3f} at step {best_step}, while the reward"
        f" rose from {reward_then:.2f} to {reward:.2f}; look at the completions, and at what the reward pays for"
    )
