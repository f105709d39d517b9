"""The example of a plain JAX model: it learns, and it is short."""

from pathlib import Path

from helpers import plain_jax_example


def test_it_learns():
    rewards = plain_jax_example.train(100)
    assert sum(rewards[:10]) / 10 < 0.3
    assert sum(rewards[-10:]) / 10 > 0.8


def test_it_is_short():
    assert len(Path(plain_jax_example.__file__).read_text().splitlines()) < 60
