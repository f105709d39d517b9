"""Continuous batching: fewer slots than rows sample the same completions, and are rarely idle."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small import DEFINITION, EOS, make_params, make_prompts

from r1vl_jax.sampling import continuous_batching, loop
from r1vl_jax.sampling.loop import sample
from r1vl_jax.sampling.methods import Temperature
from r1vl_jax.sampling.sampler import Sampler

KEY = jax.random.key(5)
FORBIDDEN = (40, 41, 42, 43)


@pytest.fixture(scope="module")
def params():
    return make_params()


@pytest.mark.parametrize("slots", [1, 4, 5])
def test_slots_sample_what_a_batch_of_all_rows_does(params, slots):
    """Also where the number of slots divides neither the rows nor a prompt's samples."""
    prompts = make_prompts(4)
    sampler = Sampler(DEFINITION, Temperature(1.0), 3, 20, (EOS, 8, 9, 10), FORBIDDEN)
    batched = sample(sampler, params, prompts, KEY)
    queued = sample(dataclasses.replace(sampler, slots=slots), params, prompts, KEY)
    lengths = np.asarray(batched.completions.mask_BT).sum(1)
    assert len(set(lengths)) > 3
    np.testing.assert_array_equal(batched.completions.mask_BT, queued.completions.mask_BT)
    np.testing.assert_array_equal(batched.has_ended_B, queued.has_ended_B)
    tokens = (np.where(np.asarray(r.completions.mask_BT), r.completions.token_BT, 0) for r in (batched, queued))
    np.testing.assert_array_equal(*tokens)
    np.testing.assert_allclose(batched.logp_BT, queued.logp_BT, atol=2e-5)
    np.testing.assert_allclose(batched.entropy_BT, queued.entropy_BT, atol=2e-5)
    assert queued.num_steps >= -(-lengths.sum() // slots)
    assert slots > 1 or queued.num_steps == lengths.sum()


def test_slots_are_rarely_idle(params, monkeypatch):
    """128 rows of 16 to 512 tokens in 16 slots; in place of random numbers is whether a token is the row's last."""

    def uniform_noise(row_key_B, length):
        length_B1 = jax.vmap(lambda key: jax.random.randint(key, (1,), 16, 513))(row_key_B)
        is_last_BT = jnp.arange(length)[None] + 1 == length_B1
        return jnp.stack([is_last_BT, is_last_BT], axis=-1).astype(jnp.float32)

    def sample_token(sampler, head_DV, hidden_BD, uniform_B2):
        return jnp.where(uniform_B2[:, 0] == 1, EOS, 9), hidden_BD[:, 0], hidden_BD[:, 1]

    monkeypatch.setattr(loop, "uniform_noise", uniform_noise)
    for module in (loop, continuous_batching):
        monkeypatch.setattr(module, "sample_token", sample_token)
    # A temperature of its own, so that no other test's compiled program is reused.
    sampler = Sampler(DEFINITION, Temperature(1.0), 8, 512, (EOS,), FORBIDDEN, slots=16, logp_temperature=1.125)
    rollout = sample(sampler, params, make_prompts(16), KEY)
    lengths = np.asarray(rollout.completions.mask_BT).sum(1)
    assert len(lengths) == 128
    assert lengths.min() < 40
    assert lengths.max() > 480
    assert rollout.num_steps <= 1.25 * lengths.sum() / 16
