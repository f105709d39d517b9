"""Charts: points, ticks and coordinates."""

import math
import re

import numpy as np
import pytest

from r1vl_jax.report import charts
from r1vl_jax.report.rendering import render


def chart_html(lines: list[dict]) -> str:
    """The chart of the loss of the warm-up."""
    chart = charts.line_chart(charts.ChartSpec("c", "u", "warmup", {"loss": "l"}), lines)
    return render("chart.html", chart=chart, frame=charts.FRAME)


def test_points_skip_values_that_are_not_finite_and_average_long_runs():
    lines = [{"stage": "warmup", "step": step, "loss": None if step == 2 else float(step)} for step in range(1, 5)]
    assert charts.points_of(lines, "warmup", "loss") == [(1, 1), (3, 3), (4, 4)]
    assert charts.points_of(lines, "step_grpo", "loss") == []
    many = [{"stage": "warmup", "step": step, "loss": 2.0 * step} for step in range(1000)]
    points = charts.points_of(many, "warmup", "loss")
    assert len(points) == math.ceil(1000 / 3)
    assert points[0] == (1, 2)


def test_moving_mean_keeps_a_straight_line_and_few_points():
    line = [(float(x), 3.0 * x) for x in range(100)]
    np.testing.assert_allclose(charts.smoothed(line)[10:90], line[10:90])
    assert charts.smoothed(line[:5]) == line[:5]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0), (-0.3, 2.1), (1, 13125), (0, 3e-7), (0, 0.99), (7, 7)])
def test_ticks_are_round_and_enclose(low, high):
    found = charts.ticks(low, high)
    assert found[0] <= low
    assert high <= found[-1]
    assert 2 <= len(found) <= 8
    steps = {f"{b - a:.6g}" for a, b in zip(found, found[1:], strict=False)}
    assert len(steps) == 1
    assert re.match(r"^0*\.?0*[125]", steps.pop())


def test_values_of_the_size_of_rounding_errors_are_drawn():
    lines = [{"stage": "warmup", "step": step, "loss": step * 1e-15} for step in (1, 2)]
    assert "<svg" in chart_html(lines)
    assert charts.ticks(0.0, 3e-15)[-1] == pytest.approx(3e-15)


def test_points_are_drawn_at_their_coordinates():
    lines = [{"stage": "warmup", "step": step, "loss": value} for step, value in ((0, 0.0), (5, 1.0), (10, 2.0))]
    drawn = re.search(r'class="mean" points="([^"]*)"', chart_html(lines)).group(1)
    corners = [tuple(map(float, pair.split(","))) for pair in drawn.split()]
    assert corners == [(52, 184), (219, 97), (386, 10)]


def test_steps_on_the_axis_are_integers():
    drawn = chart_html([{"stage": "warmup", "step": step, "loss": 1.0} for step in (1, 2, 3)])
    assert re.findall(r'text-anchor="middle">([^<]*)<', drawn) == ["1", "2", "3"]
