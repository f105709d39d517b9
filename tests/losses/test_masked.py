"""Masked reductions."""

import numpy as np

from r1vl_jax.losses import masked


def test_values_outside_the_mask_are_ignored():
    value = np.array([[1.0, 3.0, np.nan], [np.inf, np.nan, np.nan]])
    mask = np.array([[True, True, False], [False, False, False]])
    assert masked.masked_sum(value, mask) == 4.0
    assert masked.masked_mean(value, mask) == 2.0
    np.testing.assert_array_equal(masked.masked_mean(value, mask, axis=1), [2.0, 0.0])
    np.testing.assert_array_equal(masked.masked_sum(value, mask, axis=0), [1.0, 3.0, 0.0])
