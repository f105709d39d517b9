"""Completions at the length limit."""

import numpy as np

from r1vl_jax import losses


def test_soft_overlong_penalty():
    length = np.array([0, 80, 81, 85, 100, 120])
    penalty = losses.soft_overlong_penalty(length, max_completion_length=100, soft_punish_cache=20)
    np.testing.assert_allclose(penalty, [0, 0, -0.05, -0.25, -1, -1], atol=1e-7)


def test_truncated_rows_become_empty():
    mask = np.array([[True, True], [True, False]])
    np.testing.assert_array_equal(losses.mask_truncated(mask, np.array([False, True])), [[False, False], [True, False]])
