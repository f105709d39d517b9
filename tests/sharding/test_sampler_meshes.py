"""On any trainer mesh and any sampler mesh, the completions are those of one device."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers.small import DEFINITION, EOS, in_rows, make_adapter, make_params, make_prompts

from r1vl_jax.aot.hlo.collectives import find_collectives
from r1vl_jax.aot.hlo.parse import parse_hlo
from r1vl_jax.arrays import Rollout
from r1vl_jax.config import Mesh
from r1vl_jax.models.lora import LoRA
from r1vl_jax.models.trainable import combine
from r1vl_jax.sampling.loop import decode, prefill, sample
from r1vl_jax.sampling.methods import Temperature
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.sampling.weight_sync import sampler_params
from r1vl_jax.sharding import rules
from r1vl_jax.sharding.batch import shard_batch
from r1vl_jax.sharding.mesh import make_mesh

MAX_LENGTH = 40  # tokens
LORA_DEFINITION = dataclasses.replace(DEFINITION, lora=LoRA(4, 8.0, ("q_proj", "down_proj", "qkv", "mlp_2")))


def make_sampler(definition, tensor: int, slots: int = 0) -> Sampler:
    return Sampler(definition, Temperature(1.0), 2, MAX_LENGTH, (EOS,), (40, 41, 42, 43), slots=slots, tensor=tensor)


def sampled(definition, mesh: jax.sharding.Mesh, tensor: int, slots: int = 0):
    definition = dataclasses.replace(definition, mesh=mesh)
    sampler = make_sampler(definition, tensor, slots)
    params = make_params(scale=0.5)
    if definition.lora:
        params = combine(make_adapter(definition), params)
    params = jax.device_put(params, rules.shardings(params, mesh))
    return sample(sampler, params, shard_batch(in_rows(make_prompts(8)), mesh), jax.random.key(1))


@pytest.fixture(scope="module")
def single_device():
    mesh = make_mesh(Mesh(1, 1, 1), jax.devices()[:1])
    return {definition: sampled(definition, mesh, 1) for definition in (DEFINITION, LORA_DEFINITION)}


@pytest.mark.parametrize(
    ("definition", "sizes", "tensor"),
    [
        (DEFINITION, (2, 4, 1), 2),
        (LORA_DEFINITION, (1, 4, 2), 1),
        *(
            pytest.param(definition, sizes, tensor, marks=pytest.mark.slow)
            for definition, sizes, tensor in [
                (DEFINITION, (1, 4, 2), 1),
                (DEFINITION, (1, 4, 2), 2),
                (DEFINITION, (2, 4, 1), 1),
                (LORA_DEFINITION, (2, 4, 1), 2),
            ]
        ),
    ],
)
def test_the_completions_of_one_device(single_device, definition, sizes, tensor):
    mesh, expected = make_mesh(Mesh(*sizes)), single_device[definition]
    assert_equal(sampled(definition, mesh, tensor), expected, mesh)


def test_on_gpus_prefill_uses_a_single_mesh(single_device):
    """cuDNN attention requires it; this test computes the plain attention."""
    definition, mesh = dataclasses.replace(DEFINITION, platform="gpu"), make_mesh(Mesh(1, 4, 2))
    assert_equal(sampled(definition, mesh, 1), single_device[DEFINITION], mesh)
    sampler = Sampler(dataclasses.replace(definition, mesh=mesh), Temperature(1.0), 2, 8, (EOS,), (), tensor=1)
    params = jax.device_put(make_params(), rules.shardings(make_params(), mesh))
    lowered = prefill(sampler).lower(params, shard_batch(in_rows(make_prompts(8)), mesh))
    meshes = {each.mesh for each in jax.tree.leaves(lowered.compile().output_shardings)}
    assert meshes == {mesh}
    assert sampler.mesh != mesh


def test_rows_of_some_devices_end_long_before_those_of_others(single_device):
    rollout = single_device[DEFINITION]
    longest_Z = np.asarray(rollout.completions.mask_BT).sum(1).reshape(8, -1).max(axis=1)
    assert 2 * longest_Z.min() <= longest_Z.max() == rollout.num_steps


@pytest.mark.parametrize(("slots", "tensor"), [(12, 1), (4, 1), (6, 2)])
def test_slots_that_do_not_divide_are_refused(slots, tensor):
    with pytest.raises(ValueError, match=f"slots={slots}: expected a multiple of {8 // tensor}"):
        sampled(DEFINITION, make_mesh(Mesh(2, 4, 1)), tensor, slots)


@pytest.mark.parametrize(("tensor", "slots"), [(2, 8), (1, 8)])
def test_slots_take_rows_of_their_device(single_device, tensor, slots):
    mesh = make_mesh(Mesh(2, 4, 1))
    assert_equal(sampled(DEFINITION, mesh, tensor, slots), single_device[DEFINITION], mesh)


@pytest.mark.parametrize("slots", [0, 8])
@pytest.mark.parametrize("tensor", [1, 2])
def test_replicas_synchronise_while_decoding_only_under_tensor_parallelism(tensor, slots):
    """Under it all devices run the decoding loop in lockstep; otherwise each runs its own, for its own rows."""
    mesh = make_mesh(Mesh(2, 4, 1))
    sampler = make_sampler(dataclasses.replace(DEFINITION, mesh=mesh), tensor, slots)
    params = jax.device_put(make_params(), rules.shardings(make_params(), mesh))
    prefilled = prefill(sampler)(params, shard_batch(in_rows(make_prompts(8)), mesh))
    program = decode(sampler).lower(sampler_params(sampler, params), prefilled, jax.random.key(1)).compile()
    replica = [device // tensor for device in range(8)]
    found = find_collectives(parse_hlo(program.as_text()), replica)
    num_executions = [each.times for each in found if each.crosses_slices]
    assert (max(num_executions) > 1) == (tensor == 2)


def assert_equal(rollout: Rollout, expected: Rollout, mesh: jax.sharding.Mesh):
    mask = np.asarray(expected.completions.mask_BT)
    np.testing.assert_array_equal(rollout.completions.mask_BT, mask)
    tokens = (np.where(mask, each.completions.token_BT, 0) for each in (rollout, expected))
    np.testing.assert_array_equal(*tokens)
    np.testing.assert_allclose(rollout.logp_BT, expected.logp_BT, atol=1e-5)
    np.testing.assert_allclose(rollout.entropy_BT, expected.entropy_BT, atol=1e-5)
    assert rollout.logp_BT.sharding.mesh == mesh  # back on the trainer's mesh, each row on its device
    assert (
        len({str(shard.index) for shard in rollout.logp_BT.addressable_shards})
        == mesh.shape["data"] * mesh.shape["fsdp"]
    )
