"""Masks in words, against the same questions asked of plain lists of booleans."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from r1vl_jax.rewards.kernels import bits

SIZE = 160
# Long runs reach over several words.
MASK = hnp.arrays(bool, SIZE) | st.lists(st.integers(0, SIZE), max_size=6).map(
    lambda edges: np.cumsum(np.bincount(edges, minlength=SIZE)[:SIZE]) % 2 == 1
)
pack, unpack = jax.jit(bits.pack), jax.jit(bits.unpack)


@given(MASK)
@settings(deadline=None)
def test_packing_loses_nothing(mask):
    np.testing.assert_array_equal(unpack(pack(mask)), mask)


@given(MASK)
@settings(deadline=None)
def test_the_next_and_the_first_true(mask):
    positions = np.arange(SIZE)
    expected = [next((k for k in range(position, SIZE) if mask[k]), SIZE) for position in positions]
    np.testing.assert_array_equal(jax.jit(bits.next_true)(pack(mask), positions), expected)
    assert jax.jit(bits.first_true)(pack(mask)) == expected[0]


def test_there_is_no_next_true_beyond_the_end():
    word = pack(np.ones(SIZE, bool))
    np.testing.assert_array_equal(bits.next_true(word, jnp.array([SIZE - 1, SIZE, SIZE + 40])), [SIZE - 1, SIZE, SIZE])


@given(MASK)
@settings(deadline=None)
def test_counts_and_places_of_set_bits(mask):
    np.testing.assert_array_equal(jax.jit(bits.num_before)(pack(mask)), np.cumsum(mask) - mask)
    places, count = jax.jit(bits.first_places, static_argnums=1)(pack(mask), 40)
    np.testing.assert_array_equal(places, [*np.flatnonzero(mask)[:40], *[SIZE] * (40 - min(40, mask.sum()))])
    assert count == mask.sum()


@pytest.mark.parametrize("distance", [0, 1, 5, 31])
def test_neighbours(distance):
    mask = np.random.default_rng(0).random(SIZE) < 0.5
    ahead = np.append(mask[distance:], np.zeros(distance, bool))
    behind = np.append(np.zeros(distance, bool), mask)[:SIZE]
    np.testing.assert_array_equal(unpack(bits.ahead(pack(mask), distance)), ahead)
    np.testing.assert_array_equal(unpack(bits.behind(pack(mask), distance)), behind)


def test_what_begins_and_what_it_covers():
    text = np.frombuffer(b"xx abab ab".ljust(64), np.uint8)
    begins = bits.begins(jnp.asarray(text), b"ab")
    np.testing.assert_array_equal(np.flatnonzero(unpack(begins)), [3, 5, 8])
    np.testing.assert_array_equal(np.flatnonzero(unpack(bits.covers(begins, 3))), [3, 4, 5, 6, 7, 8, 9, 10])


@given(MASK, MASK)
@settings(max_examples=200, deadline=None)
def test_behind_runs_that_hold_a_seed(run, seed):
    seed = seed & run
    expected, holds_seed = np.zeros(SIZE, bool), False
    for place in range(SIZE):
        expected[place] = not run[place] and holds_seed
        holds_seed = run[place] and (holds_seed or seed[place])
    np.testing.assert_array_equal(unpack(jax.jit(bits.behind_runs)(pack(run), pack(seed))), expected)
