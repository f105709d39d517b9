"""Rankings against sorting everything; fusion by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1vl_jax.router.knowledge.document import Hit
from r1vl_jax.router.knowledge.ranking import best_positive, fuse


@given(
    size=st.integers(1, 1_500),
    num_levels=st.integers(1, 50),
    k=st.integers(1, 20),
    share_of_zeros=st.sampled_from([0.0, 0.5, 0.999]),
    seed=st.integers(0, 99),
)
def test_the_best_scores_are_those_of_sorting_all_and_ties_go_to_the_lower_number(
    size, num_levels, k, share_of_zeros, seed
):
    rng = np.random.default_rng(seed)
    scores = rng.integers(1, num_levels + 1, size).astype(np.float32) * (rng.random(size) >= share_of_zeros)
    ordered = sorted(range(size), key=lambda number: (-scores[number], number))
    expected = [Hit(number, scores[number]) for number in ordered if scores[number] > 0][:k]
    assert best_positive(scores, k) == expected


def test_fusion_adds_reciprocal_ranks():
    words, vectors = [Hit(7, 9.0), Hit(2, 8.0)], [Hit(2, 0.9), Hit(5, 0.8), Hit(7, 0.1)]
    fused = fuse([words, vectors], 2)
    assert [hit.number for hit in fused] == [2, 7]
    assert [hit.score for hit in fused] == pytest.approx([1 / 62 + 1 / 61, 1 / 61 + 1 / 63])


def test_of_equal_sums_the_lower_number_comes_first():
    assert [hit.number for hit in fuse([[Hit(4, 1.0)], [Hit(3, 1.0)]], 2)] == [3, 4]
