"""Packed masks, against the same operations on plain lists of booleans."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from r1vl_jax.rewards.kernels import bits

SIZE = 160
# Long runs span several words.
MASK = hnp.arrays(bool, SIZE) | st.lists(st.integers(0, SIZE), max_size=6).map(
    lambda edges: np.cumsum(np.bincount(edges, minlength=SIZE)[:SIZE]) % 2 == 1
)
pack, unpack = jax.jit(bits.pack), jax.jit(bits.unpack)


@given(MASK)
@settings(deadline=None)
def test_unpack_inverts_pack(mask):
    np.testing.assert_array_equal(unpack(pack(mask)), mask)


@given(MASK)
@settings(deadline=None)
def test_next_true_and_first_true(mask):
    positions = np.arange(SIZE)
    expected = [next((k for k in range(position, SIZE) if mask[k]), SIZE) for position in positions]
    np.testing.assert_array_equal(jax.jit(bits.next_true)(pack(mask), positions), expected)
    assert jax.jit(bits.first_true)(pack(mask)) == expected[0]


def test_next_true_past_the_end():
    word = pack(np.ones(SIZE, bool))
    np.testing.assert_array_equal(bits.next_true(word, jnp.array([SIZE - 1, SIZE, SIZE + 40])), [SIZE - 1, SIZE, SIZE])


@given(MASK)
@settings(deadline=None)
def test_counts_and_indices_of_set_bits(mask):
    np.testing.assert_array_equal(jax.jit(bits.num_before)(pack(mask)), np.cumsum(mask) - mask)
    indices, count = jax.jit(bits.first_indices, static_argnums=1)(pack(mask), 40)
    np.testing.assert_array_equal(indices, [*np.flatnonzero(mask)[:40], *[SIZE] * (40 - min(40, mask.sum()))])
    assert count == mask.sum()


@pytest.mark.parametrize("distance", [0, 1, 5, 31])
def test_lookahead_and_lookbehind(distance):
    mask = np.random.default_rng(0).random(SIZE) < 0.5
    later = np.append(mask[distance:], np.zeros(distance, bool))
    earlier = np.append(np.zeros(distance, bool), mask)[:SIZE]
    np.testing.assert_array_equal(unpack(bits.lookahead(pack(mask), distance)), later)
    np.testing.assert_array_equal(unpack(bits.lookbehind(pack(mask), distance)), earlier)


def test_literal_starts_and_extend():
    text = np.frombuffer(b"xx abab ab".ljust(64), np.uint8)
    starts = bits.literal_starts(jnp.asarray(text), b"ab")
    np.testing.assert_array_equal(np.flatnonzero(unpack(starts)), [3, 5, 8])
    np.testing.assert_array_equal(np.flatnonzero(unpack(bits.extend(starts, 3))), [3, 4, 5, 6, 7, 8, 9, 10])


@given(MASK, MASK)
@settings(max_examples=200, deadline=None)
def test_after_seeded_runs(run, seed):
    seed = seed & run
    expected, holds_seed = np.zeros(SIZE, bool), False
    for index in range(SIZE):
        expected[index] = not run[index] and holds_seed
        holds_seed = run[index] and (holds_seed or seed[index])
    np.testing.assert_array_equal(unpack(jax.jit(bits.after_seeded_runs)(pack(run), pack(seed))), expected)
