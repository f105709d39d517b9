"""Alarm on reward hacking: the reward rises while held-out accuracy falls."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

_STANDARD_ERRORS = 2.0  # of the difference of two accuracies; a smaller drop may be noise


def alarm(lines: Sequence[Mapping[str, Any]], *, stage: str, num_problems: int) -> str | None:
    """The message of the alarm; None if there is none.

    Compares the last evaluation with the best one before, and the mean reward of the updates since the evaluation
    before each.

    Args:
        lines: of `metrics.jsonl`, the last evaluation included.
        stage: whose lines count.
        num_problems: number of problems of an evaluation.
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
    best_step, best, best_reward = max(earlier, key=lambda mean: mean[1])
    error = math.sqrt((best * (1 - best) + accuracy * (1 - accuracy)) / num_problems)
    if accuracy >= best - _STANDARD_ERRORS * error or reward <= best_reward:
        return None
    return (
        f"step {step}: held-out accuracy fell to {accuracy:.3f} from {best:.3f} at step {best_step}, while the reward"
        f" rose from {best_reward:.2f} to {reward:.2f}; possible reward hacking: look at the completions"
    )
