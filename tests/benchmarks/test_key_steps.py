"""The made-up problems of `benchmarks.key_steps`, and what the rule must reach on them."""

import random

import pytest

from benchmarks import key_steps


@pytest.mark.parametrize("name", key_steps.STYLES)
def test_the_rule_on_each_style(name):
    shares = key_steps.measure(key_steps.STYLES[name], 20, seed=1)
    assert shares["precision"] == shares["right, known spellings"] == 1.0
    if "small" in name:
        assert shares["recall"] > 0.6
        assert shares["wrong that earns undue"] < 0.06
        assert shares["another problem's that earns any"] < 0.06
    else:
        assert shares["recall"] == 1.0
        assert shares["wrong that earns undue"] == shares["another problem's that earns any"] == 0.0
    assert 0.2 < shares["right, any spelling"] < 1.0


def test_a_planted_error_goes_on_or_leaves_a_step_out():
    rng = random.Random(0)
    steps = key_steps.make_steps(rng, key_steps.STYLES["GSM8K"])
    for _ in range(20):
        path, missing = key_steps.plant_error(rng, steps)
        if len(path) < len(steps):
            assert [step for number, step in enumerate(steps) if number not in missing] == path
        else:
            assert [number for number, (a, b) in enumerate(zip(path, steps, strict=True)) if a != b] == missing
            assert all(b.left == a.value for a, b in zip(path, path[1:], strict=False))


def test_what_is_undue_is_counted():
    """With key steps that any path has, every wrong path earns some that it does not have."""
    style = key_steps.STYLES["Mulberry"]

    def found(question, solution):
        steps = [line.partition("\\( ")[2].partition(" \\)")[0] for line in solution.splitlines() if "\\(" in line]
        return [(step, "picture") for step in steps]

    original = key_steps.key_steps_by_rule
    try:
        key_steps.key_steps_by_rule = found
        shares = key_steps.measure(style, 10)
    finally:
        key_steps.key_steps_by_rule = original
    assert shares["wrong that earns undue"] > 0.5
