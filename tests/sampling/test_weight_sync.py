"""Weight sync: values, shardings and lifetime of the sampler's parameters, aliasing on a CPU, and memory."""

import dataclasses
import gc
import math
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small import CONFIG, DEFINITION, EOS, in_rows, make_adapter, make_params, make_prompts

from r1vl_jax.config import Mesh
from r1vl_jax.models.lora import LoRA
from r1vl_jax.models.trainable import combine
from r1vl_jax.sampling import loop
from r1vl_jax.sampling.loop import decode, prefill, sample
from r1vl_jax.sampling.methods import Temperature
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.sampling.weight_sync import layers_per_group, sampler_params, sync_layers, synced_params
from r1vl_jax.sharding import rules
from r1vl_jax.sharding.batch import shard_batch
from r1vl_jax.sharding.mesh import make_mesh

SAMPLER = Sampler(DEFINITION, Temperature(1.0), 2, 6, (EOS,), (40, 41, 42, 43))
KEY = jax.random.key(2)


def on_mesh(sizes: tuple[int, int, int], tensor: int, sampler: Sampler = SAMPLER) -> Sampler:
    devices = jax.devices()[: math.prod(sizes)]
    definition = dataclasses.replace(sampler.definition, mesh=make_mesh(Mesh(*sizes), devices=devices))
    return dataclasses.replace(sampler, definition=definition, tensor=tensor)


def shard_params(sampler: Sampler, params):
    return jax.device_put(params, rules.shardings(params, sampler.definition.mesh))


@pytest.mark.parametrize("tensor", [1, 2, 4])
def test_the_decoding_mesh_has_the_same_devices_in_the_same_order(tensor):
    sampler = on_mesh((2, 2, 2), tensor)
    assert dict(sampler.mesh.shape) == (
        {"data": 2, "fsdp": 2, "tensor": 2} if tensor == 2 else {"data": 8 // tensor, "fsdp": 1, "tensor": tensor}
    )
    assert list(sampler.mesh.devices.flat) == list(sampler.definition.mesh.devices.flat)


@pytest.mark.parametrize(("sizes", "tensor"), [((1, 8, 1), 1), ((1, 8, 1), 2), ((1, 4, 2), 1)])
def test_synced_layers_are_cast_unstacked_and_sharded_over_tensor_alone(sizes, tensor):
    sampler = on_mesh(
        sizes, tensor, dataclasses.replace(SAMPLER, definition=dataclasses.replace(DEFINITION, dtype="bfloat16"))
    )
    params = make_params()
    synced = sampler_params(sampler, shard_params(sampler, params))
    assert len(synced["layers"]) == CONFIG.num_hidden_layers
    assert {leaf.dtype for leaf in jax.tree.leaves(synced)} == {jnp.dtype("bfloat16")}
    for number, layer in enumerate(synced["layers"]):
        expected = jax.tree.map(
            lambda leaf, i=number: np.asarray(leaf[i].astype(jnp.bfloat16)), params["text"]["layers"]
        )
        jax.tree.map(np.testing.assert_array_equal, layer, expected)
    up_proj, o_proj = (
        synced["layers"][1]["mlp"]["up_proj"]["kernel"],
        synced["layers"][0]["self_attn"]["o_proj"]["kernel"],
    )
    assert {shard.data.shape for shard in up_proj.addressable_shards} == {(32, 48 // tensor)}
    assert {shard.data.shape for shard in o_proj.addressable_shards} == {(32 // tensor, 32)}
    embedding = synced["embed_tokens"]["embedding"]
    assert {shard.data.shape for shard in embedding.addressable_shards} == {(48 // tensor, 32)}


@pytest.mark.parametrize("sampler", [SAMPLER, on_mesh((1, 8, 1), 1)])
def test_synced_params_are_freed_and_the_trainers_stay(sampler):
    """In float32, where a cast would not copy."""
    params = make_params() if sampler.mesh is None else shard_params(sampler, make_params())
    with synced_params(sampler, params) as synced:
        leaves = jax.tree.leaves(synced())
        assert synced() is synced()
        assert not any(leaf.is_deleted() for leaf in leaves)
    assert all(leaf.is_deleted() for leaf in leaves)
    jax.tree.map(np.testing.assert_array_equal, params, make_params())


def addresses(tree) -> list[int]:
    return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("sampler", [SAMPLER, on_mesh((1, 1, 1), 1)], ids=["no mesh", "mesh of one device"])
def test_one_cpu_device_aliases_the_trainers_memory(sampler):
    params = make_params() if sampler.mesh is None else shard_params(sampler, make_params())
    synced = sampler_params(sampler, params)
    stacked = params["text"]["layers"]["mlp"]["down_proj"]["kernel"]
    for number, layer in enumerate(synced["layers"]):
        kernel = layer["mlp"]["down_proj"]["kernel"]
        assert kernel.unsafe_buffer_pointer() == stacked.unsafe_buffer_pointer() + number * stacked[0].nbytes
        jax.tree.map(
            np.testing.assert_array_equal, layer, jax.tree.map(lambda leaf, i=number: leaf[i], params["text"]["layers"])
        )
    for name in ("embed_tokens", "norm"):
        assert addresses(synced[name]) == addresses(params["text"][name])
    if sampler.mesh is not None:
        assert {leaf.sharding.mesh for leaf in jax.tree.leaves(synced)} == {sampler.mesh}


def test_an_untied_head_is_aliased():
    config = dataclasses.replace(CONFIG, tie_word_embeddings=False)
    sampler = dataclasses.replace(SAMPLER, definition=dataclasses.replace(DEFINITION, config=config))
    params = make_params(definition=sampler.definition)
    assert addresses(sampler_params(sampler, params)["lm_head"]) == addresses(params["lm_head"])
    other = params | {"lm_head": jax.tree.map(lambda leaf: leaf.astype("bfloat16"), params["lm_head"])}
    assert {leaf.dtype for leaf in jax.tree.leaves(sampler_params(sampler, other))} == {jnp.dtype("float32")}


def test_unaligned_layers_are_right():
    """With norms of 36 numbers the second layer's starts 144 bytes after the first, which is no multiple of 64."""
    config = dataclasses.replace(CONFIG, hidden_size=36)
    sampler = dataclasses.replace(SAMPLER, definition=dataclasses.replace(DEFINITION, config=config))
    params = make_params(definition=sampler.definition)
    layer = sampler_params(sampler, params)["layers"][1]
    jax.tree.map(np.testing.assert_array_equal, layer, jax.tree.map(lambda leaf: leaf[1], params["text"]["layers"]))


def test_weights_are_synced_after_the_prefill_is_dispatched(monkeypatch):
    calls = []
    monkeypatch.setattr(loop, "prefill", lambda sampler: lambda params, prompts: calls.append("prefill"))
    monkeypatch.setattr(loop, "decode", lambda sampler: lambda params, prefilled, key: calls.append("decode"))
    sample(SAMPLER, {}, make_prompts(), KEY, synced=lambda: calls.append("sync"))
    assert calls == ["prefill", "sync", "decode"]


@pytest.mark.parametrize(
    ("sampler", "dtype"),
    [
        (dataclasses.replace(SAMPLER, definition=dataclasses.replace(DEFINITION, dtype="bfloat16")), "float32"),
        (dataclasses.replace(SAMPLER, definition=dataclasses.replace(DEFINITION, dtype="bfloat16")), "bfloat16"),
        (SAMPLER, "bfloat16"),
        (dataclasses.replace(SAMPLER, definition=dataclasses.replace(DEFINITION, platform="gpu")), "float32"),
        (on_mesh((1, 2, 1), 1), "float32"),
    ],
    ids=["cast", "numpy has no bfloat16", "cast up", "another platform", "two devices"],
)
def test_elsewhere_synced_params_do_not_alias(sampler, dtype):
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), make_params())
    if sampler.mesh is not None:
        params = shard_params(sampler, params)
    first_shard = [leaf.addressable_shards[0].data for leaf in jax.tree.leaves(sampler_params(sampler, params))]
    trainer_shard = [leaf.addressable_shards[0].data for leaf in jax.tree.leaves(params["text"])]
    assert not set(addresses(first_shard)) & set(addresses(trainer_shard))


def test_an_update_is_in_place_once_the_aliases_are_gone():
    """While aliases live, an update writes to new memory and they keep their values; afterwards it writes in place."""
    update = jax.jit(lambda params: jax.tree.map(lambda leaf: leaf + 1, params), donate_argnums=0)
    total = jax.jit(lambda synced: sum(map(jnp.sum, jax.tree.leaves(synced))))
    params = make_params()
    with synced_params(SAMPLER, params) as synced:
        aliases = synced()
        params = jax.block_until_ready(update(params))
        before = make_params()["text"]["layers"]["mlp"]["down_proj"]["kernel"]
        np.testing.assert_array_equal(aliases["layers"][1]["mlp"]["down_proj"]["kernel"], before[1])
    with synced_params(SAMPLER, params) as synced:
        jax.block_until_ready(total(synced()))
    time.sleep(0.2)  # the runtime releases a program's arguments a moment after its results are ready
    gc.collect()  # and JAX releases buffers borrowed from NumPy when garbage is collected
    old_addresses = addresses(params["text"])
    assert addresses(update(params)["text"]) == old_addresses


def test_synced_params_are_freed_when_sampling_fails():
    kept = []

    def fail(synced):
        kept.append(synced())
        raise KeyError

    with pytest.raises(KeyError), synced_params(SAMPLER, make_params()) as synced:
        fail(synced)
    assert kept[0]["embed_tokens"]["embedding"].is_deleted()


def test_params_are_not_synced_before_they_are_needed(monkeypatch):
    monkeypatch.setattr("r1vl_jax.sampling.weight_sync.sampler_params", lambda *_: pytest.fail("synced"))
    with synced_params(SAMPLER, make_params()):
        pass


def test_several_rollouts_share_synced_params():
    params, prompts = make_params(), make_prompts()
    with synced_params(SAMPLER, params) as synced:
        first, second = (sample(SAMPLER, params, prompts, KEY, synced=synced) for _ in range(2))
    alone = sample(SAMPLER, params, prompts, KEY)
    for rollout in (first, second):
        np.testing.assert_array_equal(rollout.completions.token_BT, alone.completions.token_BT)


@pytest.mark.parametrize(("num_layers", "size"), [(28, 4), (80, 4), (36, 4), (2, 2), (7, 1), (27, 3)])
def test_layer_groups_are_of_equal_size(num_layers, size):
    assert layers_per_group(num_layers) == size


def test_sync_needs_memory_for_one_group_of_layers():
    """Of sixteen layers, the program's temporaries are at most twice the size of a group of four."""
    config = dataclasses.replace(
        CONFIG, num_hidden_layers=16, hidden_size=64, intermediate_size=128, mrope_section=(4, 2, 2)
    )
    definition = dataclasses.replace(DEFINITION, config=config)
    sampler = on_mesh((1, 8, 1), 2, dataclasses.replace(SAMPLER, definition=definition))
    stacked = definition.abstract_params()["text"]["layers"]
    stacked = jax.tree.map(
        lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at),
        stacked,
        rules.shardings(stacked, sampler.definition.mesh),
    )
    memory = sync_layers(sampler.definition, sampler.mesh).lower(stacked, jnp.int32(0)).compile().memory_analysis()
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(stacked))
    group_on_device = total / 4 / 2  # four groups, sharded over tensor=2
    assert memory.output_size_in_bytes == pytest.approx(group_on_device, rel=0.05)
    assert memory.temp_size_in_bytes < 2 * group_on_device


def test_decoding_gathers_no_weight():
    """With four prompts of one sample each, all-gathers are smaller than the smallest matrix of a layer."""
    sampler = dataclasses.replace(on_mesh((1, 4, 2), 2), num_generations=1)
    params = shard_params(sampler, make_params())
    synced = sampler_params(sampler, params)
    prefilled = prefill(sampler)(params, shard_batch(in_rows(make_prompts(4)), sampler.definition.mesh))
    text = decode(sampler).lower(synced, prefilled, KEY).compile().as_text()
    assert "while" in text
    gathered = re.findall(r"= \w+\[([\d,]*)\]\S* all-gather", text)
    smallest = min(leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(synced["layers"]) if leaf.ndim == 2)
    assert all(np.prod([int(size) for size in shape.split(",")]) < smallest for shape in gathered)
    for caches, shape in ((prefilled.prefix.key_PKHS, (1, 1, 8, 10)), (prefilled.prefix.value_PKSH, (1, 1, 10, 8))):
        assert {shard.data.shape for cache in caches for shard in cache.addressable_shards} == {shape}


@pytest.mark.parametrize(("platform", "has_head"), [("cpu", True), ("tpu", False), ("gpu", False)])
def test_a_tied_head_is_materialised_only_on_a_cpu(platform, has_head):
    sampler = dataclasses.replace(SAMPLER, definition=dataclasses.replace(DEFINITION, platform=platform))
    synced = sampler_params(sampler, make_params())
    assert ("lm_head" in synced) == has_head
    if has_head:
        np.testing.assert_array_equal(synced["lm_head"]["kernel"], synced["embed_tokens"]["embedding"].T)


def test_adapters_are_not_merged():
    lora = LoRA(4, 8.0, ("q_proj", "down_proj", "qkv"))
    adapted = dataclasses.replace(DEFINITION, lora=lora)
    params = combine(make_adapter(adapted), make_params(scale=0.5))
    layer = sampler_params(dataclasses.replace(SAMPLER, definition=adapted), params)["layers"][1]
    np.testing.assert_array_equal(
        layer["mlp"]["down_proj"]["lora_a"], params["text"]["layers"]["mlp"]["down_proj"]["lora_a"][1]
    )
    np.testing.assert_array_equal(
        layer["self_attn"]["q_proj"]["kernel"], params["text"]["layers"]["self_attn"]["q_proj"]["kernel"][1]
    )
