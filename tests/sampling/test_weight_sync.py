"""The sampler's copy of the decoder: what it holds, where it lies, how long it lives, and what making it costs."""

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


def placed(sampler: Sampler, params):
    return jax.device_put(params, rules.shardings(params, sampler.definition.mesh))


@pytest.mark.parametrize("tensor", [1, 2, 4])
def test_the_decoding_mesh_has_the_same_devices_in_the_same_order(tensor):
    sampler = on_mesh((2, 2, 2), tensor)
    assert dict(sampler.mesh.shape) == (
        {"data": 2, "fsdp": 2, "tensor": 2} if tensor == 2 else {"data": 8 // tensor, "fsdp": 1, "tensor": tensor}
    )
    assert list(sampler.mesh.devices.flat) == list(sampler.definition.mesh.devices.flat)


@pytest.mark.parametrize(("sizes", "tensor"), [((1, 8, 1), 1), ((1, 8, 1), 2), ((1, 4, 2), 1)])
def test_a_copy_holds_every_layer_cast_and_whole_but_for_tensor(sizes, tensor):
    sampler = on_mesh(
        sizes, tensor, dataclasses.replace(SAMPLER, definition=dataclasses.replace(DEFINITION, dtype="bfloat16"))
    )
    params = make_params()
    copy = sampler_params(sampler, placed(sampler, params))
    assert len(copy["layers"]) == CONFIG.num_hidden_layers
    assert {leaf.dtype for leaf in jax.tree.leaves(copy)} == {jnp.dtype("bfloat16")}
    for number, layer in enumerate(copy["layers"]):
        expected = jax.tree.map(
            lambda leaf, i=number: np.asarray(leaf[i].astype(jnp.bfloat16)), params["text"]["layers"]
        )
        jax.tree.map(np.testing.assert_array_equal, layer, expected)
    up_proj, o_proj = copy["layers"][1]["mlp"]["up_proj"]["kernel"], copy["layers"][0]["self_attn"]["o_proj"]["kernel"]
    assert {shard.data.shape for shard in up_proj.addressable_shards} == {(32, 48 // tensor)}
    assert {shard.data.shape for shard in o_proj.addressable_shards} == {(32 // tensor, 32)}
    embedding = copy["embed_tokens"]["embedding"]
    assert {shard.data.shape for shard in embedding.addressable_shards} == {(48 // tensor, 32)}


@pytest.mark.parametrize("sampler", [SAMPLER, on_mesh((1, 8, 1), 1)])
def test_a_copy_is_given_back_and_the_parameters_stay(sampler):
    """In float32, where a cast is no copy."""
    params = make_params() if sampler.mesh is None else placed(sampler, make_params())
    with synced_params(sampler, params) as copy:
        leaves = jax.tree.leaves(copy())
        assert copy() is copy()
        assert not any(leaf.is_deleted() for leaf in leaves)
    assert all(leaf.is_deleted() for leaf in leaves)
    jax.tree.map(np.testing.assert_array_equal, params, make_params())


def addresses(tree) -> list[int]:
    return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("sampler", [SAMPLER, on_mesh((1, 1, 1), 1)], ids=["no mesh", "a mesh of one device"])
def test_one_cpu_device_reads_the_trainers_memory(sampler):
    params = make_params() if sampler.mesh is None else placed(sampler, make_params())
    copy = sampler_params(sampler, params)
    stacked = params["text"]["layers"]["mlp"]["down_proj"]["kernel"]
    for number, layer in enumerate(copy["layers"]):
        kernel = layer["mlp"]["down_proj"]["kernel"]
        assert kernel.unsafe_buffer_pointer() == stacked.unsafe_buffer_pointer() + number * stacked[0].nbytes
        jax.tree.map(
            np.testing.assert_array_equal, layer, jax.tree.map(lambda leaf, i=number: leaf[i], params["text"]["layers"])
        )
    for name in ("embed_tokens", "norm"):
        assert addresses(copy[name]) == addresses(params["text"][name])
    if sampler.mesh is not None:
        assert {leaf.sharding.mesh for leaf in jax.tree.leaves(copy)} == {sampler.mesh}


def test_a_head_of_its_own_is_read_in_place():
    config = dataclasses.replace(CONFIG, tie_word_embeddings=False)
    sampler = dataclasses.replace(SAMPLER, definition=dataclasses.replace(DEFINITION, config=config))
    params = make_params(definition=sampler.definition)
    assert addresses(sampler_params(sampler, params)["lm_head"]) == addresses(params["lm_head"])
    other = params | {"lm_head": jax.tree.map(lambda leaf: leaf.astype("bfloat16"), params["lm_head"])}
    assert {leaf.dtype for leaf in jax.tree.leaves(sampler_params(sampler, other))} == {jnp.dtype("float32")}


def test_layers_that_do_not_begin_where_arrays_do_are_right_too():
    """A norm of 36 numbers: the second layer's begins 144 bytes behind the first's, not at a multiple of 64."""
    config = dataclasses.replace(CONFIG, hidden_size=36)
    sampler = dataclasses.replace(SAMPLER, definition=dataclasses.replace(DEFINITION, config=config))
    params = make_params(definition=sampler.definition)
    layer = sampler_params(sampler, params)["layers"][1]
    jax.tree.map(np.testing.assert_array_equal, layer, jax.tree.map(lambda leaf: leaf[1], params["text"]["layers"]))


def test_the_copy_is_asked_for_behind_the_prompts(monkeypatch):
    calls = []
    monkeypatch.setattr(loop, "prefill", lambda sampler: lambda params, prompts: calls.append("prefill"))
    monkeypatch.setattr(loop, "decode", lambda sampler: lambda copy, prefilled, key: calls.append("decode"))
    sample(SAMPLER, {}, make_prompts(), KEY, copy=lambda: calls.append("copy"))
    assert calls == ["prefill", "copy", "decode"]


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
def test_elsewhere_a_copy_has_memory_of_its_own(sampler, dtype):
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), make_params())
    if sampler.mesh is not None:
        params = placed(sampler, params)
    first_shard = [leaf.addressable_shards[0].data for leaf in jax.tree.leaves(sampler_params(sampler, params))]
    of_trainer = [leaf.addressable_shards[0].data for leaf in jax.tree.leaves(params["text"])]
    assert not set(addresses(first_shard)) & set(addresses(of_trainer))


def test_an_update_waits_for_nobody_and_takes_the_memory_when_the_copy_is_gone():
    """While views live an update writes elsewhere, and they stay as they were; afterwards it writes in place."""
    update = jax.jit(lambda params: jax.tree.map(lambda leaf: leaf + 1, params), donate_argnums=0)
    total = jax.jit(lambda copy: sum(map(jnp.sum, jax.tree.leaves(copy))))
    params = make_params()
    with synced_params(SAMPLER, params) as copy:
        views = copy()
        params = jax.block_until_ready(update(params))
        before = make_params()["text"]["layers"]["mlp"]["down_proj"]["kernel"]
        np.testing.assert_array_equal(views["layers"][1]["mlp"]["down_proj"]["kernel"], before[1])
    with synced_params(SAMPLER, params) as copy:
        jax.block_until_ready(total(copy()))
    time.sleep(0.2)  # what runs a program lets go of its arguments a moment after the results are there
    gc.collect()  # and JAX of what numpy lent when it is looked for
    lay = addresses(params["text"])
    assert addresses(update(params)["text"]) == lay


def test_a_copy_is_given_back_when_sampling_fails():
    copies = []

    def fail(copy):
        copies.append(copy())
        raise KeyError

    with pytest.raises(KeyError), synced_params(SAMPLER, make_params()) as copy:
        fail(copy)
    assert copies[0]["embed_tokens"]["embedding"].is_deleted()


def test_a_copy_that_nobody_asks_for_is_not_made(monkeypatch):
    monkeypatch.setattr("r1vl_jax.sampling.weight_sync.sync", lambda *_: pytest.fail("it is made"))
    with synced_params(SAMPLER, make_params()):
        pass


def test_one_copy_serves_several_draws():
    params, prompts = make_params(), make_prompts()
    with synced_params(SAMPLER, params) as copy:
        first, second = (sample(SAMPLER, params, prompts, KEY, copy=copy) for _ in range(2))
    alone = sample(SAMPLER, params, prompts, KEY)
    for rollout in (first, second):
        np.testing.assert_array_equal(rollout.completions.token_BT, alone.completions.token_BT)


@pytest.mark.parametrize(("num_layers", "size"), [(28, 4), (80, 4), (36, 4), (2, 2), (7, 1), (27, 3)])
def test_groups_are_equal(num_layers, size):
    assert layers_per_group(num_layers) == size


def test_beside_the_copy_there_is_one_group_of_layers_in_memory():
    """Sixteen layers; what the program needs beside its argument and result is that of four, at most twice over."""
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
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(stacked))
    group_on_device = whole / 4 / 2  # of four groups, divided over tensor
    assert memory.output_size_in_bytes == pytest.approx(group_on_device, rel=0.05)
    assert memory.temp_size_in_bytes < 2 * group_on_device


def test_no_weight_is_gathered_while_tokens_are_drawn():
    """Four prompts of one sample each: everything that is computed is smaller than the smallest matrix of a layer."""
    sampler = dataclasses.replace(on_mesh((1, 4, 2), 2), num_generations=1)
    params = placed(sampler, make_params())
    copy = sampler_params(sampler, params)
    prefilled = prefill(sampler)(params, shard_batch(in_rows(make_prompts(4)), sampler.definition.mesh))
    text = decode(sampler).lower(copy, prefilled, KEY).compile().as_text()
    assert "while" in text
    gathered = re.findall(r"= \w+\[([\d,]*)\]\S* all-gather", text)
    smallest = min(leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(copy["layers"]) if leaf.ndim == 2)
    assert all(np.prod([int(size) for size in shape.split(",")]) < smallest for shape in gathered)
    for caches, shape in ((prefilled.prefix.key_PKHS, (1, 1, 8, 10)), (prefilled.prefix.value_PKSH, (1, 1, 10, 8))):
        assert {shard.data.shape for cache in caches for shard in cache.addressable_shards} == {shape}


@pytest.mark.parametrize(("platform", "has_head"), [("cpu", True), ("tpu", False), ("gpu", False)])
def test_an_embedding_that_is_the_head_lies_both_ways_only_on_a_cpu(platform, has_head):
    sampler = dataclasses.replace(SAMPLER, definition=dataclasses.replace(DEFINITION, platform=platform))
    copy = sampler_params(sampler, make_params())
    assert ("lm_head" in copy) == has_head
    if has_head:
        np.testing.assert_array_equal(copy["lm_head"]["kernel"], copy["embed_tokens"]["embedding"].T)


def test_an_adapter_stays_beside_its_matrix():
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
