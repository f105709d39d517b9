"""Line charts as inline SVG, drawn from lines of `metrics.jsonl`."""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from r1vl_jax.report.markup import Markup, element, join

Points = list[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Chart:
    """What a chart shows.

    Attributes:
        series: metric -> label, the first four or so in colours that are easy to tell apart.
        top: the upper end of the axis where the quantity has one, such as 1 for a fraction.
    """

    title: str
    unit: str
    stage: str
    series: Mapping[str, str]
    top: float | None = None


_STEP_GRPO = "step_grpo"
CHARTS = (
    Chart("Reward", "a completion, mean of the step", _STEP_GRPO, {"reward": "total"}),
    Chart(
        "Accuracy reward",
        "StepRAR and what it is made of",
        _STEP_GRPO,
        {
            "rewards/step_accuracy/mean": "StepRAR",
            "rewards/answer_correct/mean": "answer correct",
            "rewards/key_step_match/mean": "key steps matched",
        },
    ),
    Chart(
        "Validity reward",
        "StepRVR and what it is made of",
        _STEP_GRPO,
        {
            "rewards/step_validity/mean": "StepRVR",
            "rewards/complete/mean": "complete",
            "rewards/ordered/mean": "in order",
        },
        top=1.0,
    ),
    Chart("Held-out accuracy", "fraction of problems, greedy", _STEP_GRPO, {"eval/accuracy": "all kinds"}, top=1.0),
    Chart("KL to the reference", "nats a token", _STEP_GRPO, {"kl": "KL"}),
    Chart("Entropy", "nats a token", _STEP_GRPO, {"entropy": "entropy"}),
    Chart("Completion length", "tokens", _STEP_GRPO, {"completions/mean_length": "mean"}),
    Chart("Repetition", "fraction of runs of four tokens seen before", _STEP_GRPO, {"completions/repetition": "mean"}),
    Chart(
        "Groups that teach nothing",
        "fraction whose samples all earn the same",
        _STEP_GRPO,
        {"frac_reward_zero_std": "no spread"},
        top=1.0,
    ),
    Chart("Warm-up loss", "nats a token", "warmup", {"loss": "loss"}),
)

_WIDTH, _HEIGHT = 400, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 386, 10, 184  # the frame of the plot, in units of the drawing
_MAX_POINTS = 400  # more are averaged in bins, so that a long run's page stays small
_MAX_POINTS_UNSMOOTHED = 30


def line_chart(chart: Chart, lines: Sequence[Mapping[str, Any]]) -> Markup | None:
    """A figure with one line per series, or None if nothing was logged."""
    series = {label: points_of(lines, chart.stage, metric) for metric, label in chart.series.items()}
    series = {label: points for label, points in series.items() if points}
    if not series:
        return None
    x_ticks, y_ticks, scale = _axes([point for points in series.values() for point in points], chart.top)
    drawn = [_line(points, number, scale) for number, points in enumerate(series.values(), start=1)]
    cursor = element("line", class_="cursor", x1=_LEFT, x2=_LEFT, y1=_TOP, y2=_BOTTOM)
    svg = element(
        "svg",
        *_grid(x_ticks, y_ticks, scale),
        *drawn,
        cursor,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=f"{chart.title} by step",
    )
    pixels = {label: [[round(scale(x, y)[0], 1), x, y] for x, y in points] for label, points in series.items()}
    caption = element("figcaption", element("b", chart.title), " ", element("span", chart.unit, class_="unit"))
    return element("figure", caption, _legend(series), svg, class_="chart", data_series=json.dumps(pixels))


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


def _axes(points: Points, top: float | None):
    """Ticks of both axes, and the map from values to the drawing. The vertical axis holds 0 always."""
    x_ticks = ticks(min(x for x, _ in points), max(x for x, _ in points))
    y_ticks = ticks(min(0.0, *(y for _, y in points)), max(top or 0.0, *(y for _, y in points)))
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    low, high = y_ticks[0], y_ticks[-1]

    def scale(x: float, y: float) -> tuple[float, float]:
        across = (x - left) / (right - left) if right > left else 0.5
        return _LEFT + across * (_RIGHT - _LEFT), _BOTTOM - (y - low) / (high - low) * (_BOTTOM - _TOP)

    return [tick for tick in x_ticks if left <= tick <= right and tick == int(tick)], y_ticks, scale


def ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers, 1, 2 or 5 times a power of ten apart, that enclose [low, high]."""
    spread = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(spread / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if spread / (factor * power) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    decimals = 1 - math.floor(math.log10(step))  # the KL of a first update may be as small as 1e-15
    return [round(number * step, decimals) for number in range(first, max(last, first + 1) + 1)]


def _grid(x_ticks: list[float], y_ticks: list[float], scale) -> Iterator[Markup]:
    for tick in y_ticks:
        y = round(scale(0, tick)[1], 1)
        yield element("line", class_="grid", x1=_LEFT, x2=_RIGHT, y1=y, y2=y)
        yield element("text", f"{tick:g}", x=_LEFT - 6, y=y + 3.5, text_anchor="end")
    for tick in x_ticks:
        yield element("text", f"{tick:g}", x=round(scale(tick, 0)[0], 1), y=_BOTTOM + 16, text_anchor="middle")


def _line(points: Points, number: int, scale) -> Markup:
    """The values as they are, faint, and their moving mean; a mark on each where there are few."""
    mean = smoothed(points)
    parts = [element("polyline", class_="mean", points=_coordinates(mean, scale))]
    if mean is not points:
        parts.insert(0, element("polyline", class_="raw", points=_coordinates(points, scale)))
    elif len(points) <= _MAX_POINTS_UNSMOOTHED:
        places = [scale(x, y) for x, y in points]
        parts += [element("circle", cx=round(x, 1), cy=round(y, 1), r=2.5) for x, y in places]
    return element("g", *parts, class_=f"series s{number}")


def _coordinates(points: Points, scale) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in (scale(*point) for point in points))


def _legend(series: Mapping[str, Points]) -> Markup:
    """A label per series with its last (smoothed) value, which the script replaces by the value under the pointer."""
    entries = []
    for number, (label, points) in enumerate(series.items(), start=1):
        last = element("output", f"{smoothed(points)[-1][1]:.3g}")
        entries.append(element("span", element("i", class_=f"s{number}"), label, " ", last, class_="key"))
    return element("div", join(*entries), element("span", class_="step"), class_="legend")
