"""The picture of the ablation: training curves of chosen arms, and held-out accuracy after each."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from PIL import Image

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
    """Writes a picture: above, curves of these arms; below, held-out accuracy of all arms, a point for each seed.

    A strong curve is the mean over the seeds, the faint ones are the seeds.
    """
    color = {arm: f"C{number}" for number, arm in enumerate(arms)}
    layout = [list(_TITLES), ["arms"] * len(_TITLES)]
    size, ratios = (15, 4 + 0.26 * len(results)), [3.2, 0.8 + 0.26 * len(results)]
    figure, axes = plt.subplot_mosaic(layout, figsize=size, height_ratios=ratios, layout="constrained")
    for name, title in _TITLES.items():
        for arm in (arm for arm in arms if results.get(arm)):
            _plot_curve(axes[name], results[arm], name, label=arm, color=color[arm])
        axes[name].set(title=title, xlabel="update of StepGRPO")
        axes[name].grid(alpha=0.3)
    axes["answer_correct"].set_ylim(bottom=0)
    handles, labels = axes["answer_correct"].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(arms))
    _plot_arms(axes["arms"], results, color)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100)
    Image.open(drawn).convert("RGB").quantize(64).save(path, optimize=True)  # a third of the bytes; notebooks carry it
    plt.close(figure)


def _plot_arms(ax: Axes, results: Results, color: Mapping[str, str]) -> None:
    rows = {"warm-up": [result["before"]["sampled"] for result in results.get(BOTH, {}).values()]}
    rows |= {arm: [result["after"]["sampled"] for result in of_seed.values()] for arm, of_seed in results.items()}
    for row, (arm, values) in enumerate(rows.items()):
        ax.plot(values, [row] * len(values), "o", color=color.get(arm, "grey"), alpha=0.8)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.invert_yaxis()
    ax.set(title="held-out accuracy on the hard kind, sampled, after each arm", xlim=(0, 1))
    ax.grid(alpha=0.3)


def _plot_curve(ax: Axes, of_seed: Mapping[str, Any], name: str, *, label: str, color: str) -> None:
    curves = [result["curves"][name] for result in of_seed.values()]
    length = min(map(len, curves))
    values = np.array([curve[:length] for curve in curves])
    updates = BLOCK * np.arange(1, length + 1)
    ax.plot(updates, values.T, color=color, alpha=0.35, linewidth=0.8)
    ax.plot(updates, values.mean(axis=0), label=label, color=color, linewidth=2.2)
