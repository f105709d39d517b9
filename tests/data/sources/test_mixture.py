"""Splits in their shares of an epoch."""

import collections

import numpy as np
import pytest

from r1vl_jax.data.sources.mixture import Mixture


def mixed(sizes, weights):
    """The mixture of lists of (source, number)."""
    mixture = Mixture([[(s, n) for n in range(size)] for s, size in enumerate(sizes)], weights, "train")
    return [mixture[index] for index in range(len(mixture))]


def test_without_weights_each_record_comes_once():
    records = mixed([7, 2, 1], None)
    assert sorted(records) == sorted((s, n) for s, size in enumerate([7, 2, 1]) for n in range(size))


@pytest.mark.parametrize(
    ("sizes", "weights", "places"),
    [
        ([10, 2], [0.5, 0.5], [10, 10]),
        ([10, 2], [3, 1], [10, 3]),
        ([100, 100], [0.9, 0.1], [900, 100]),
        ([5, 5], [1, 1], [5, 5]),
    ],
)
def test_shares_are_those_of_the_weights_and_no_record_is_left_out(sizes, weights, places):
    counts = collections.Counter(mixed(sizes, weights))
    assert [sum(counts[s, n] for n in range(size)) for s, size in enumerate(sizes)] == places
    for source, size in enumerate(sizes):
        each = [counts[source, number] for number in range(size)]
        assert min(each) >= 1
        assert max(each) - min(each) <= 1


def test_every_stretch_has_the_shares_of_the_whole():
    sources = np.array([source for source, _ in mixed([300, 100], [0.75, 0.25])])
    assert [sources[start : start + 40].sum() for start in range(0, 400, 40)] == [10] * 10
