"""What a GPU would run, with its kernels computed by interpreters: the completions and scores of plain attention."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest
from small import DEFINITION, EOS, in_rows, make_params, make_prompts

from r1vl_jax import sharding
from r1vl_jax.arrays import Rollout
from r1vl_jax.config import Mesh
from r1vl_jax.models import cudnn, flash_decode
from r1vl_jax.sampling.loop import sample
from r1vl_jax.sampling.methods import Temperature
from r1vl_jax.sampling.sampler import Sampler

NUM_PROMPTS, PROMPT_LENGTH, MAX_LENGTH = 4, 64, 64  # whole blocks


@pytest.fixture
def calls(monkeypatch) -> dict[str, list[Any]]:
    """Meshes of the calls of each kernel, which take float32 here."""
    seen: dict[str, list[Any]] = {"cudnn": [], "flash_decode": []}

    def watched(name: str, kernel: Any, **settings: Any) -> Any:
        def call(*inputs: Any, **others: Any) -> Any:
            seen[name].append(others.get("mesh"))
            return kernel(*inputs, **others, **settings)

        return call

    for module in (cudnn, flash_decode):
        monkeypatch.setattr(module, "is_suited", lambda *inputs, **settings: True)
    attend, decode = cudnn.cudnn_attention, flash_decode.flash_decode
    monkeypatch.setattr(cudnn, "cudnn_attention", watched("cudnn", attend, implementation="xla"))
    monkeypatch.setattr(flash_decode, "flash_decode", watched("flash_decode", decode, interpret=True))
    return seen


def _sampled(platform: str, mesh: jax.sharding.Mesh, slots: int = 0) -> tuple[Sampler, Rollout]:
    definition = dataclasses.replace(DEFINITION, platform=platform, mesh=mesh)
    sampler = Sampler(definition, Temperature(1.0), 2, MAX_LENGTH, (EOS,), (), slots=slots, tensor=1)
    params = make_params(scale=0.5)
    params = jax.device_put(params, sharding.shardings(params, mesh))
    prompts = sharding.divide(in_rows(make_prompts(NUM_PROMPTS, length=PROMPT_LENGTH)), mesh)
    return sampler, sample(sampler, params, prompts, jax.random.key(1))


@functools.cache
def _plain() -> Rollout:
    return _sampled("cpu", sharding.make_mesh(Mesh(1, 1, 1), jax.devices()[:1]))[1]


@pytest.mark.parametrize(("sizes", "slots"), [((1, 1, 1), 0), ((1, 1, 1), 3), ((1, 2, 2), 0)])
def test_completions_are_those_of_plain_attention(calls, sizes, slots):
    mesh = sharding.make_mesh(Mesh(*sizes), jax.devices()[: np.prod(sizes)])
    sampler, rollout = _sampled("gpu", mesh, slots)
    expected = _plain()
    mask_BT = np.asarray(expected.completions.mask_BT)
    assert 8 < mask_BT.sum() < mask_BT.size
    np.testing.assert_array_equal(rollout.completions.mask_BT, mask_BT)
    tokens = (np.where(mask_BT, each.completions.token_BT, 0) for each in (rollout, expected))
    np.testing.assert_array_equal(*tokens)
    np.testing.assert_allclose(rollout.logp_BT, expected.logp_BT, atol=2e-3)
    assert len(calls["cudnn"]) >= 2  # of the tower and of the prompts
    assert len(calls["flash_decode"]) >= DEFINITION.config.num_hidden_layers
    assert set(calls["flash_decode"]) == {sampler.mesh}
