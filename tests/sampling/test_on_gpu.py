"""Sampling for platform "gpu", with its kernels interpreted, against sampling for "cpu"."""

import dataclasses
import functools
import zlib
from typing import Any

import jax
import numpy as np
import pytest
from helpers.small import DEFINITION, EOS, in_rows, make_params, make_prompts

from r1vl_jax.arrays import Params, Rollout
from r1vl_jax.config import Mesh
from r1vl_jax.models import decode_linear_gpu
from r1vl_jax.models.attention import cudnn, flash_decode_gpu
from r1vl_jax.models.lora import LoRA
from r1vl_jax.sampling.loop import sample
from r1vl_jax.sampling.methods import Temperature
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.sharding import rules
from r1vl_jax.sharding.batch import shard_batch
from r1vl_jax.sharding.mesh import make_mesh

NUM_PROMPTS, PROMPT_LENGTH, MAX_LENGTH = 4, 64, 64  # whole blocks of keys
# Widths that the kernels of linear layers support.
WIDE = dataclasses.replace(
    DEFINITION,
    config=dataclasses.replace(DEFINITION.config, hidden_size=128, intermediate_size=192, mrope_section=(8, 4, 4)),
)


@pytest.fixture
def calls(monkeypatch) -> dict[str, list[Any]]:
    """The calls of each kernel, which may take float32 here; of `flash_decode` (is_tensor_parallel, number of rows)."""
    recorded: dict[str, list[Any]] = {"cudnn": [], "flash_decode": [], "decode_linear": []}

    def recording(name: str, kernel: Any, **settings: Any) -> Any:
        def call(*inputs: Any, **others: Any) -> Any:
            is_attention = name == "flash_decode"
            recorded[name].append((others.get("is_tensor_parallel", False), len(inputs[0])) if is_attention else None)
            return kernel(*inputs, **others, **settings)

        return call

    for module in (cudnn, flash_decode_gpu, decode_linear_gpu):
        monkeypatch.setattr(module, "is_supported", lambda *inputs, **settings: True)
    attend, decode = cudnn.cudnn_attention, flash_decode_gpu.flash_decode
    monkeypatch.setattr(cudnn, "cudnn_attention", recording("cudnn", attend, implementation="xla"))
    monkeypatch.setattr(flash_decode_gpu, "flash_decode", recording("flash_decode", decode, interpret=True))
    monkeypatch.setattr(
        decode_linear_gpu, "_pallas_call", recording("decode_linear", decode_linear_gpu._pallas_call, interpret=True)
    )
    return recorded


def _sampled(
    platform: str, mesh: jax.sharding.Mesh, slots: int = 0, tensor: int = 1, lora: LoRA | None = None
) -> tuple[Sampler, Rollout]:
    definition = dataclasses.replace(WIDE, platform=platform, mesh=mesh, lora=lora)
    sampler = Sampler(definition, Temperature(1.0), 2, MAX_LENGTH, (EOS,), (), slots=slots, tensor=tensor)
    params = _perturb(make_params(scale=0.25, definition=dataclasses.replace(WIDE, lora=lora)))
    params = jax.device_put(params, rules.shardings(params, mesh))
    prompts = shard_batch(in_rows(make_prompts(NUM_PROMPTS, length=PROMPT_LENGTH)), mesh)
    return sampler, sample(sampler, params, prompts, jax.random.key(1))


def _perturb(params: Params) -> Params:
    """The parameters with nonzero biases and uneven norm scales."""

    def perturbed(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        if path[-1].key not in ("bias", "scale"):
            return leaf
        return leaf + 0.3 * jax.random.normal(jax.random.key(zlib.crc32(str(path).encode())), leaf.shape)

    return jax.tree_util.tree_map_with_path(perturbed, params)


@functools.cache
def _plain() -> Rollout:
    return _sampled("cpu", make_mesh(Mesh(1, 1, 1), jax.devices()[:1]))[1]


@pytest.mark.parametrize(
    ("sizes", "slots", "tensor"), [((1, 1, 1), 0, 1), ((1, 1, 1), 3, 1), ((1, 2, 2), 0, 1), ((1, 2, 2), 0, 2)]
)
def test_completions_equal_those_of_plain_attention(calls, sizes, slots, tensor):
    """The kernels of linear layers are not used with tensor parallelism: they take whole matrices."""
    mesh = make_mesh(Mesh(*sizes), jax.devices()[: np.prod(sizes)])
    sampler, rollout = _sampled("gpu", mesh, slots, tensor)
    _check(rollout)
    layers = WIDE.config.num_hidden_layers
    assert len(calls["cudnn"]) >= 2  # of the vision tower and of the prompts
    num_rows = (slots or 2 * NUM_PROMPTS) // sampler.num_shards
    assert calls["flash_decode"] == [(tensor == 2, num_rows)] * layers
    assert len(calls["decode_linear"]) == (7 * layers if tensor == 1 else 0)


def test_adapters_do_not_use_the_kernels_of_linear_layers(calls):
    """A new adapter changes nothing."""
    mesh = make_mesh(Mesh(1, 1, 1), jax.devices()[:1])
    _, rollout = _sampled("gpu", mesh, lora=LoRA(4, 8.0, ("q_proj", "down_proj")))
    _check(rollout)
    assert calls["flash_decode"]
    assert not calls["decode_linear"]


def _check(rollout: Rollout) -> None:
    expected = _plain()
    mask_BT = np.asarray(expected.completions.mask_BT)
    assert 8 < mask_BT.sum() < mask_BT.size
    np.testing.assert_array_equal(rollout.completions.mask_BT, mask_BT)
    tokens = (np.where(mask_BT, each.completions.token_BT, 0) for each in (rollout, expected))
    np.testing.assert_array_equal(*tokens)
    np.testing.assert_allclose(rollout.logp_BT, expected.logp_BT, atol=2e-3)
