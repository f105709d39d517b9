"""Alarm on reward hacking, where the reward rises while held-out accuracy falls; warning of groups without gradient."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

_NUM_UPDATES, _MANY = 20, 0.5  # updates in a row, and the fraction of equal groups from which there is a warning
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


class EqualGroups:
    """Watches how many groups have equal rewards, which give no gradient."""

    def __init__(self) -> None:
        self._fractions: list[float] = []

    def warning(self, step: int, fraction: float) -> str | None:
        """A warning after each 20 updates in a row with more than half of the groups equal; else None.

        Args:
            step: of the update.
            fraction: of its groups whose rewards have zero standard deviation.
        """
        self._fractions = [*self._fractions, fraction] if fraction > _MANY else []
        if len(self._fractions) < _NUM_UPDATES:
            return None
        mean, self._fractions = sum(self._fractions) / _NUM_UPDATES, []
        return (
            f"step {step}: in each of the last {_NUM_UPDATES} updates more than half of the groups ({mean:.0%} on"
            " average) had equal rewards and gave no gradient (frac_reward_zero_std); harder or easier prompts help, a"
            " larger sampling.num_generations, or loss.dynamic_sample=True (docs/recipes.md)"
        )
