"""The picture of the ablation: training curves of chosen arms, and what each arm gains."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from benchmarks.ablation.arms import ANSWER_ONLY, BOTH
from benchmarks.ablation.results import BLOCK, Results

_SHOWN = (BOTH, ANSWER_ONLY, "both, step-level credit", "key steps of other records", "rewards shuffled within groups")
_TITLES = {
    "answer_correct": "right answers on fresh problems",
    "key_step_match": "key steps found in the path",
    "mean_length": "tokens of a path",
    "frac_reward_zero_std": "groups of equal rewards",
}


def plot(results: Results, path: Path, arms: Sequence[str] = _SHOWN) -> None:
    """Writes curves of these arms, as far as they were run: mean over the seeds, and from the lowest to the highest."""
    matplotlib.use("Agg")
    shown = [arm for arm in arms if results.get(arm)]
    figure, axes = plt.subplots(1, len(_TITLES), figsize=(4 * len(_TITLES), 3.4), layout="constrained")
    for ax, (name, title) in zip(axes, _TITLES.items(), strict=True):
        for number, arm in enumerate(shown):
            _plot_curve(ax, results[arm], name, label=f"{arm} ({len(results[arm])})", color=f"C{number}")
        ax.set(title=title, xlabel="update of StepGRPO")
        ax.grid(alpha=0.3)
    axes[0].set_ylim(bottom=0)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(shown), frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _plot_curve(ax: Axes, of_seed: Mapping[str, Any], name: str, *, label: str, color: str) -> None:
    curves = [result["curves"][name] for result in of_seed.values()]
    length = min(map(len, curves))
    values = np.array([curve[:length] for curve in curves])
    updates = BLOCK * np.arange(1, length + 1)
    ax.plot(updates, values.mean(axis=0), label=label, color=color)
    ax.fill_between(updates, values.min(axis=0), values.max(axis=0), color=color, alpha=0.15, linewidth=0)
