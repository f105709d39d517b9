"""Line charts of `metrics.jsonl`: what `templates/chart.html` draws as inline SVG."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Points = list[tuple[float, float]]
Scale = Callable[[float, float], tuple[float, float]]  # (step, value) -> (x, y) in the drawing


@dataclass(frozen=True)
class ChartSpec:
    """Which metrics a chart shows, and its labels.

    Attributes:
        series: metric -> label; there are four colours.
        y_max: the least upper end of the vertical axis, such as 1 for a fraction.
    """

    title: str
    unit: str
    stage: str
    series: Mapping[str, str]
    y_max: float | None = None


@dataclass(frozen=True)
class Tick:
    """A number on an axis.

    Attributes:
        at: position along the axis, in units of the drawing.
    """

    at: float
    label: str


@dataclass(frozen=True)
class Line:
    """One series.

    Attributes:
        last: its last (smoothed) value, which the script replaces by the value under the pointer.
        mean, raw: moving mean and raw values as points of a polyline; raw is "" if the line is not smoothed.
        dots: the points, if there are few.
    """

    label: str
    last: str
    mean: str
    raw: str
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Chart:
    """A chart with its coordinates.

    Attributes:
        points_json: label -> [x in the drawing, step, value] of every point, which the script reads.
    """

    title: str
    unit: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    points_json: str


@dataclass(frozen=True)
class Frame:
    """Size of the drawing, and the edges of the plot in it."""

    width: int = 400
    height: int = 210
    left: int = 52
    right: int = 386
    top: int = 10
    bottom: int = 184


FRAME = Frame()
_STEP_GRPO = "step_grpo"
CHARTS = (
    ChartSpec("Reward", "per completion, mean of the step", _STEP_GRPO, {"reward": "total"}),
    ChartSpec(
        "Accuracy reward",
        "StepRAR and its parts",
        _STEP_GRPO,
        {
            "rewards/step_accuracy/mean": "StepRAR",
            "rewards/answer_correct/mean": "answer correct",
            "rewards/key_step_match/mean": "key steps matched",
        },
    ),
    ChartSpec(
        "Validity reward",
        "StepRVR and its parts",
        _STEP_GRPO,
        {
            "rewards/step_validity/mean": "StepRVR",
            "rewards/complete/mean": "complete",
            "rewards/ordered/mean": "in order",
        },
        y_max=1.0,
    ),
    ChartSpec(
        "Held-out accuracy", "fraction of problems, greedy", _STEP_GRPO, {"eval/accuracy": "all kinds"}, y_max=1.0
    ),
    ChartSpec("KL to the reference", "nats per token", _STEP_GRPO, {"kl": "KL"}),
    ChartSpec("Entropy", "nats per token", _STEP_GRPO, {"entropy": "entropy"}),
    ChartSpec("Completion length", "tokens", _STEP_GRPO, {"completions/mean_length": "mean"}),
    ChartSpec(
        "Repetition",
        "fraction of 4-grams seen before",
        _STEP_GRPO,
        {"completions/repetition": "mean"},
    ),
    ChartSpec(
        "Groups without signal",
        "fraction of groups whose rewards have zero std",
        _STEP_GRPO,
        {"frac_reward_zero_std": "zero std"},
        y_max=1.0,
    ),
    ChartSpec("Warm-up loss", "nats per token", "warmup", {"loss": "loss"}),
)

_MAX_POINTS = 400  # more are averaged in bins, to keep the page of a long run small
_MAX_POINTS_UNSMOOTHED = 30


def line_chart(spec: ChartSpec, lines: Sequence[Mapping[str, Any]]) -> Chart | None:
    """A chart with one line per series, or None if nothing was logged."""
    series = {label: points_of(lines, spec.stage, metric) for metric, label in spec.series.items()}
    series = {label: points for label, points in series.items() if points}
    if not series:
        return None
    x_ticks, y_ticks, scale = _axes([point for points in series.values() for point in points], spec.y_max)
    return Chart(
        title=spec.title,
        unit=spec.unit,
        x_ticks=tuple(Tick(round(scale(tick, 0)[0], 1), f"{tick:g}") for tick in x_ticks),
        y_ticks=tuple(Tick(round(scale(0, tick)[1], 1), f"{tick:g}") for tick in y_ticks),
        lines=tuple(_line(label, points, scale) for label, points in series.items()),
        points_json=json.dumps(
            {label: [[round(scale(x, y)[0], 1), x, y] for x, y in points] for label, points in series.items()}
        ),
    )


def points_of(lines: Sequence[Mapping[str, Any]], stage: str, metric: str) -> Points:
    """(step, value) of a metric in a stage, at most `_MAX_POINTS` of them; values that were not finite are left out."""
    points = [
        (float(line["step"]), float(line[metric]))
        for line in lines
        if line["stage"] == stage and line.get(metric) is not None
    ]
    size = math.ceil(len(points) / _MAX_POINTS) or 1
    return [_mean(points[start : start + size]) for start in range(0, len(points), size)]


def _mean(points: Points) -> tuple[float, float]:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)


def smoothed(points: Points) -> Points:
    """A centred moving mean over a tenth of the points; few points are left as they are."""
    if len(points) <= _MAX_POINTS_UNSMOOTHED:
        return points
    reach = len(points) // 20
    means = [_mean(points[max(0, i - reach) : i + reach + 1])[1] for i in range(len(points))]
    return [(x, mean) for (x, _), mean in zip(points, means, strict=True)]


def _axes(points: Points, top: float | None) -> tuple[list[float], list[float], Scale]:
    """Ticks of both axes, and the map from values to the drawing. The vertical axis includes 0."""
    x_ticks = ticks(min(x for x, _ in points), max(x for x, _ in points))
    y_ticks = ticks(min(0.0, *(y for _, y in points)), max(top or 0.0, *(y for _, y in points)))
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    low, high = y_ticks[0], y_ticks[-1]

    def scale(x: float, y: float) -> tuple[float, float]:
        across = (x - left) / (right - left) if right > left else 0.5
        up = (y - low) / (high - low)
        return FRAME.left + across * (FRAME.right - FRAME.left), FRAME.bottom - up * (FRAME.bottom - FRAME.top)

    return [tick for tick in x_ticks if left <= tick <= right and tick == int(tick)], y_ticks, scale


def ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers, 1, 2 or 5 times a power of ten apart, that enclose [low, high]."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    decimals = 1 - math.floor(math.log10(step))  # the KL of a first update may be as small as 1e-15
    return [round(number * step, decimals) for number in range(first, max(last, first + 1) + 1)]


def _line(label: str, points: Points, scale: Scale) -> Line:
    mean = smoothed(points)
    are_few = mean is points
    return Line(
        label=label,
        last=f"{mean[-1][1]:.3g}",
        mean=_polyline(mean, scale),
        raw="" if are_few else _polyline(points, scale),
        dots=tuple((round(x, 1), round(y, 1)) for x, y in (scale(*point) for point in points)) if are_few else (),
    )


def _polyline(points: Points, scale: Scale) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in (scale(*point) for point in points))
