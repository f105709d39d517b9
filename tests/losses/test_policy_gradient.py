"""The terms of the loss of one token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1vl_jax.losses import policy_gradient


def test_k3_averages_to_the_true_kl_under_the_policy():
    rng = np.random.default_rng(0)
    logits, ref_logits = rng.normal(size=(2, 6, 9))
    logp, ref_logp = jax.nn.log_softmax(logits), jax.nn.log_softmax(ref_logits)
    true_kl = np.sum(np.exp(logp) * (logp - ref_logp), axis=-1)
    np.testing.assert_allclose(
        np.sum(np.exp(logp) * policy_gradient.k3_kl(logp, ref_logp), axis=-1), true_kl, atol=1e-6
    )


def test_k3_keeps_small_differences():
    """It is d^2 / 2 to first order; exp(d) - 1 - d in float32 would round it to 0."""
    kl = policy_gradient.k3_kl(jnp.float32(0.0), jnp.float32(1e-3))
    np.testing.assert_allclose(kl, 0.5e-6, rtol=2e-3)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 2.0, -2.2, -2.0),
        (1.5, 2.0, -2.6, 0.0),  # positive advantage, ratio already high: clipped at 1 + 0.3
        (0.5, 2.0, -1.0, -2.0),  # positive advantage, ratio low: not clipped
        (0.5, -2.0, 1.6, 0.0),  # negative advantage, ratio already low: clipped at 1 - 0.2
        (1.5, -2.0, 3.0, 2.0),  # negative advantage, ratio high: not clipped
    ],
)
def test_clipped_loss(ratio, advantage, loss, gradient):
    value, slope = jax.value_and_grad(
        lambda r: policy_gradient.clipped_loss(r, jnp.float32(advantage), epsilon=0.2, epsilon_high=0.3)
    )(jnp.float32(ratio))
    np.testing.assert_allclose([value, slope], [loss, gradient], rtol=1e-6)


def test_clip_metrics():
    ratio = jnp.array([[0.5, 1.5, 1.0, 9.0], [1.5, 1.5, 0.5, 0.5], [0.1, 9.0, 9.0, 9.0]])
    advantage = jnp.array([[-1.0, 1.0, 1.0, 1.0], [1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, 1.0, 1.0]])
    mask = jnp.array([[True, True, True, False], [True] * 4, [False] * 4])
    metrics = policy_gradient.clip_metrics(ratio, advantage, mask, lower=0.8, upper=1.2)
    expected = {
        "clip_ratio/region_mean": 4 / 7,
        "clip_ratio/low_mean": 2 / 7,
        "clip_ratio/low_min": 1 / 4,
        "clip_ratio/high_mean": 2 / 7,
        "clip_ratio/high_max": 1 / 3,
    }
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(expected)
