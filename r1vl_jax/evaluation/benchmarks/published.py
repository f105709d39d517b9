"""Published results: Zhang et al., R1-VL, 2025, table 1, https://arxiv.org/abs/2503.12937."""

import math
from collections.abc import Mapping

COLUMNS = "mathvista mmstar mathvision chartqa dynamath hallusionbench mathverse mme".split()
_ROWS = {
    "Qwen2-VL-2B": (43.0, 48.0, 12.4, 73.5, 24.9, 41.7, 19.7, 1872),
    "Qwen2-VL-2B + GRPO": (41.4, 46.2, 16.0, 72.5, 24.2, 42.2, 19.9, 1930),
    "R1-VL-2B": (52.1, 49.8, 17.1, 75.2, 29.4, 44.0, 26.2, 2048),
    "Qwen2-VL-7B": (58.2, 60.7, 16.3, 83.0, 42.1, 50.6, 32.5, 2327),
    "Qwen2-VL-7B + GRPO": (55.1, 59.8, 19.1, 81.3, 33.9, 48.5, 30.9, 2335),
    "R1-VL-7B": (63.5, 60.0, 24.7, 83.9, 45.2, 54.7, 40.0, 2376),
}
_MME_POINTS = 28  # a percent of MME's sum

# model -> benchmark -> score: percent, MME in points
PUBLISHED: dict[str, dict[str, float]] = {
    model: dict(zip(COLUMNS, scores, strict=True)) for model, scores in _ROWS.items()
}


def average(scores: Mapping[str, float]) -> float:
    """The mean of the eight scores, MME's sum divided by 28, cut to one decimal as in the published table."""
    total = sum(scores[name] / (_MME_POINTS if name == "mme" else 1) for name in COLUMNS)
    return math.floor(10 * total / len(COLUMNS)) / 10
