"""Filters and inverse-CDF sampling against a few lines of NumPy, and identities between methods."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1vl_jax.sampling.methods import Greedy, MinP, Temperature, TopK, TopP, _inverse_cdf, from_settings

LOGITS_BV = jnp.asarray(np.random.default_rng(0).normal(size=(64, 20)) * 2, jnp.float32)
UNIFORM_B2 = jax.random.uniform(jax.random.key(0), (64, 2))


def kept_tokens(filter_, logits_V):
    return set(np.flatnonzero(np.isfinite(np.asarray(filter_(jnp.asarray([logits_V], jnp.float32))[0]))))


def logits_of(*probabilities):
    return np.log(np.asarray(probabilities))


def test_top_k_keeps_the_k_most_likely():
    logits_V = logits_of(0.1, 0.4, 0.2, 0.3)
    assert kept_tokens(TopK(2), logits_V) == {1, 3}
    assert kept_tokens(TopK(99), logits_V) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("p", "expected"), [(0.05, {1}), (0.4, {1}), (0.5, {1, 3}), (0.75, {1, 2, 3}), (1.0, {0, 1, 2, 3})]
)
def test_top_p_keeps_the_fewest_that_reach_p(p, expected):
    assert kept_tokens(TopP(p), logits_of(0.1, 0.4, 0.2, 0.3)) == expected


def test_min_p_compares_with_the_most_likely():
    assert kept_tokens(MinP(0.5), logits_of(0.1, 0.4, 0.2, 0.3)) == {1, 2, 3}
    assert kept_tokens(MinP(0.6), logits_of(0.1, 0.4, 0.2, 0.3)) == {1, 3}


def test_top_p_of_one_is_plain_temperature():
    plain_B = Temperature(0.7)(LOGITS_BV, UNIFORM_B2)
    np.testing.assert_array_equal(Temperature(0.7, (TopP(1.0),))(LOGITS_BV, UNIFORM_B2), plain_B)


def test_top_one_is_greedy():
    np.testing.assert_array_equal(Temperature(1.5, (TopK(1),))(LOGITS_BV, UNIFORM_B2), Greedy()(LOGITS_BV, UNIFORM_B2))


def test_samples_follow_the_tempered_softmax():
    logits_V = logits_of(0.1, 0.6, 0.3)
    uniform_B2 = jax.random.uniform(jax.random.key(1), (20_000, 2))
    token_B = Temperature(2.0)(jnp.broadcast_to(jnp.asarray(logits_V, jnp.float32), (20_000, 3)), uniform_B2)
    expected_V = np.sqrt([0.1, 0.6, 0.3]) / np.sum(np.sqrt([0.1, 0.6, 0.3]))
    np.testing.assert_allclose(np.bincount(np.asarray(token_B)) / 20_000, expected_V, atol=0.012)


def test_samples_from_a_large_vocabulary_follow_the_softmax():
    """Five blocks, the last one partial; a third of the tokens are excluded, and a whole block."""
    num_samples, size = 200_000, 600
    rng = np.random.default_rng(3)
    logits_V = np.where(np.arange(size) % 3 == 0, -np.inf, rng.normal(size=size))
    logits_V[128:256] = -np.inf
    uniform_B2 = jax.random.uniform(jax.random.key(4), (num_samples, 2))
    token_B = np.asarray(
        Temperature(1.0)(jnp.broadcast_to(jnp.asarray(logits_V, jnp.float32), (num_samples, size)), uniform_B2)
    )
    expected_V = np.exp(logits_V) / np.exp(logits_V).sum()
    counts_V = np.bincount(token_B, minlength=size)
    assert not counts_V[expected_V == 0].any()
    possible = expected_V > 0
    expected = num_samples * expected_V[possible]
    chi_squared = ((counts_V[possible] - expected) ** 2 / expected).sum()
    degrees = possible.sum() - 1
    assert abs(chi_squared - degrees) < 4 * np.sqrt(2 * degrees)


def test_the_ends_of_the_unit_interval_give_tokens_of_positive_weight():
    weight_BN = jnp.asarray([[0.0, 0.3, 0.0, 0.7, 0.0]] * 2, jnp.float32)
    np.testing.assert_array_equal(_inverse_cdf(weight_BN, jnp.asarray([0.0, 1.0])), [1, 3])


def test_rounded_cumulative_sums_never_give_a_token_of_weight_zero():
    """As many blocks as a large vocabulary has, most without weight; the random numbers are the cumulative sums."""
    rng = np.random.default_rng(5)
    weight_BN = np.where(rng.random((500, 1188)) < 0.1, rng.random((500, 1188)), 0).astype(np.float32)
    sum_BN = np.asarray(jnp.cumsum(weight_BN, axis=1))
    for column in range(0, 1188, 54):
        uniform_B = sum_BN[:, column] / sum_BN[:, -1]
        index_B = np.asarray(_inverse_cdf(jnp.asarray(weight_BN), jnp.asarray(uniform_B)))
        assert (np.take_along_axis(weight_BN, index_B[:, None], axis=1) > 0).all()


def test_settings_that_filter_nothing_make_no_filter():
    assert from_settings(temperature=1.2, top_k=0, top_p=1.0, min_p=0.0) == Temperature(1.2)
    assert from_settings(temperature=1.0, top_k=50, top_p=0.9, min_p=0.1).filters == (TopK(50), TopP(0.9), MinP(0.1))


def test_a_row_depends_on_its_own_random_numbers_only():
    order = np.random.default_rng(0).permutation(64)
    token_B = Temperature(1.0)(LOGITS_BV, UNIFORM_B2)
    np.testing.assert_array_equal(Temperature(1.0)(LOGITS_BV[order], UNIFORM_B2[order]), token_B[order])
