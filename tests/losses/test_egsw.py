"""EGSW against its formula in NumPy, and its limits."""

import jax
import numpy as np
import pytest

from r1vl_jax import losses

G = 3
# Two groups of three rows, which end at different positions; one row is empty.
MASK = np.arange(4)[None] < np.array([4, 2, 0, 3, 4, 1])[:, None]


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return rng.normal(size=6).astype(np.float32), rng.uniform(0, 3, MASK.shape).astype(np.float32)


def compute_weight(advantage, entropy, **settings):
    settings = {"entropy_weight": 0.5, "temperature": 0.8} | settings
    return np.asarray(losses.egsw_weight(advantage, entropy, MASK, num_generations=G, **settings))


@pytest.mark.parametrize("level", ["trajectory", "step"])
def test_weights_are_the_formula(arrays, level):
    advantage, entropy = arrays
    expected = np.zeros(MASK.shape)
    for t in range(4):
        for group in (range(3), range(3, 6)):
            running = [row for row in group if MASK[row, t]]
            h = {row: entropy[row, t] if level == "step" else entropy[row][MASK[row]].mean() for row in running}
            raw = {row: np.exp((advantage[row] + 0.5 * h[row]) / 0.8) for row in running}
            for row in running:
                expected[row, t] = len(running) * raw[row] / sum(raw.values())
    np.testing.assert_allclose(compute_weight(advantage, entropy, level=level), expected, rtol=1e-5)


@pytest.mark.parametrize("level", ["trajectory", "step"])
def test_mean_is_one_over_samples_that_have_not_ended(arrays, level):
    weight = compute_weight(*arrays, level=level)
    running = MASK.reshape(2, G, 4).sum(1)
    np.testing.assert_allclose(weight.reshape(2, G, 4).sum(1), running, atol=1e-6)
    assert np.count_nonzero(weight[~MASK]) == 0


@pytest.mark.parametrize("temperature", [1e9, np.inf])
@pytest.mark.parametrize("level", ["trajectory", "step"])
def test_an_infinite_temperature_is_grpo(arrays, level, temperature):
    advantage, entropy = arrays
    logp = -entropy

    def gradient(weight):
        return jax.grad(lambda x: losses.step_grpo(x, MASK, advantage, beta=0.0, weight_BT=weight)[0])(logp)

    weight = compute_weight(advantage, entropy, level=level, temperature=temperature)
    np.testing.assert_allclose(gradient(weight), gradient(None), atol=1e-6)


def test_without_entropy_samples_are_weighted_by_advantage(arrays):
    advantage, entropy = arrays
    weight = compute_weight(advantage, entropy, entropy_weight=0.0)
    raw = np.exp(advantage[:2] / 0.8)
    np.testing.assert_allclose(weight[:2, 0], 2 * raw / raw.sum(), rtol=1e-5)
    assert abs(weight[0, 0] - 1) > 0.1  # unlike GRPO


def test_weights_are_constants_and_ignore_values_outside_the_mask(arrays):
    advantage, entropy = arrays
    gradient = jax.grad(lambda a, h: weighted_sum(a, h), (0, 1))(advantage, entropy)
    assert all(np.count_nonzero(part) == 0 for part in gradient)
    corrupted = np.where(MASK, entropy, np.nan).astype(np.float32)
    for level in ("trajectory", "step"):
        np.testing.assert_array_equal(
            compute_weight(advantage, corrupted, level=level), compute_weight(advantage, entropy, level=level)
        )


def weighted_sum(advantage, entropy):
    weight = losses.egsw_weight(advantage, entropy, MASK, num_generations=G, entropy_weight=0.5, temperature=1.0)
    return (weight * entropy).sum() - (jax.lax.stop_gradient(weight) * entropy).sum()


def test_invalid_arguments_are_refused(arrays):
    with pytest.raises(ValueError, match=r"level='row': expected one of \('trajectory', 'step'\)"):
        compute_weight(*arrays, level="row")
    with pytest.raises(ValueError, match="6 rows are not a multiple of num_generations=4"):
        losses.egsw_weight(*arrays, MASK, num_generations=4, entropy_weight=0.5, temperature=1.0)
