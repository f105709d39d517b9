"""The table of placements."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from helpers.small import DEFINITION
from jax.sharding import PartitionSpec as Spec

from r1vl_jax import config
from r1vl_jax.models.lora import LoRA
from r1vl_jax.sharding import rules
from r1vl_jax.sharding.mesh import AXES, make_mesh


def leaf(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def qwen2_vl_params() -> dict:
    """Paths and kinds of shape of Qwen2-VL: 3 layers, 8 query and 2 key/value heads of 4, width 32, 144 tokens."""
    norm, block_norm = {"scale": leaf(3, 32)}, {"scale": leaf(2, 16), "bias": leaf(2, 16)}
    return {
        "text": {
            "embed_tokens": {"embedding": leaf(144, 32)},
            "layers": {
                "input_layernorm": norm,
                "post_attention_layernorm": norm,
                "self_attn": {
                    "q_proj": {"kernel": leaf(3, 32, 32), "bias": leaf(3, 32)},
                    "k_proj": {"kernel": leaf(3, 32, 8), "bias": leaf(3, 8)},
                    "v_proj": {"kernel": leaf(3, 32, 8), "bias": leaf(3, 8)},
                    "o_proj": {"kernel": leaf(3, 32, 32)},
                },
                "mlp": {
                    "gate_proj": {"kernel": leaf(3, 32, 64)},
                    "up_proj": {"kernel": leaf(3, 32, 64)},
                    "down_proj": {"kernel": leaf(3, 64, 32)},
                },
            },
            "norm": {"scale": leaf(32)},
        },
        "visual": {
            "patch_embed": {"proj": {"kernel": leaf(1176, 16)}},
            "blocks": {
                "norm1": block_norm,
                "norm2": block_norm,
                "attn": {
                    "qkv": {"kernel": leaf(2, 16, 48), "bias": leaf(2, 48)},
                    "proj": {"kernel": leaf(2, 16, 16), "bias": leaf(2, 16)},
                },
                "mlp": {
                    "fc1": {"kernel": leaf(2, 16, 64), "bias": leaf(2, 64)},
                    "fc2": {"kernel": leaf(2, 64, 16), "bias": leaf(2, 16)},
                },
            },
            "merger": {
                "ln_q": {"scale": leaf(16), "bias": leaf(16)},
                "mlp_0": {"kernel": leaf(64, 64), "bias": leaf(64)},
                "mlp_2": {"kernel": leaf(64, 32), "bias": leaf(32)},
            },
        },
        "lm_head": {"kernel": leaf(32, 144)},
    }


def test_every_parameter_has_its_place():
    mesh = make_mesh(config.Mesh(data=1, fsdp=4, tensor=2))
    specs = jax.tree.map(lambda placed: placed.spec, rules.shardings(qwen2_vl_params(), mesh))
    layers, visual = specs["text"]["layers"], specs["visual"]
    assert specs["text"]["embed_tokens"]["embedding"] == Spec("tensor", "fsdp")
    assert specs["lm_head"]["kernel"] == Spec("fsdp", "tensor")
    assert layers["self_attn"]["q_proj"] == {"kernel": Spec(None, "fsdp", "tensor"), "bias": Spec(None, "tensor")}
    assert layers["self_attn"]["o_proj"]["kernel"] == Spec(None, "tensor", "fsdp")
    assert layers["mlp"]["up_proj"]["kernel"] == Spec(None, "fsdp", "tensor")
    assert layers["mlp"]["down_proj"]["kernel"] == Spec(None, "tensor", "fsdp")
    assert layers["input_layernorm"]["scale"] == Spec(None, None)
    assert visual["blocks"]["attn"]["qkv"]["kernel"] == Spec(None, "fsdp", "tensor")
    assert visual["blocks"]["mlp"]["fc2"] == {"kernel": Spec(None, "tensor", "fsdp"), "bias": Spec(None, None)}
    assert visual["patch_embed"]["proj"]["kernel"] == Spec("tensor", "fsdp")
    assert visual["merger"]["mlp_0"]["kernel"] == Spec("fsdp", "tensor")


def test_adapters_are_divided_as_their_matrices():
    """The columns or rows that tensor divides in a matrix, and the width that fsdp divides; never the rank."""
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    lora = LoRA(4, 4.0, (*names, "qkv", "proj", "fc1", "fc2", "mlp_0", "mlp_2"))
    params = dataclasses.replace(DEFINITION, lora=lora).abstract_params()
    placed = rules.shardings(params, make_mesh(config.Mesh(data=1, fsdp=4, tensor=2)))
    flat = {path: placed.spec for path, placed in flatten_dict(placed, sep=".").items()}
    adapters = [path.removesuffix(".lora_a") for path in flat if path.endswith(".lora_a")]
    assert len(adapters) == len(lora.target_modules)
    for path in adapters:
        *layers, rows, columns = flat[f"{path}.kernel"]
        assert flat[f"{path}.lora_a"] == Spec(*layers, rows, None), path
        assert flat[f"{path}.lora_b"] == Spec(*layers, None, columns), path


def test_optimizer_state_lies_as_its_parameters():
    mesh = make_mesh(config.Mesh(data=2, fsdp=2, tensor=2))
    params = qwen2_vl_params()
    state = jax.eval_shape(optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)).init, params)
    placed = rules.shardings(state, mesh)
    assert placed[1][0].mu == rules.shardings(params, mesh)
    assert placed[1][0].count.spec == Spec()


def test_placed_arrays_hold_their_part():
    mesh = make_mesh(config.Mesh(data=1, fsdp=4, tensor=2))
    params = {"q_proj": {"kernel": jnp.arange(3 * 32 * 32.0).reshape(3, 32, 32)}}
    placed = jax.device_put(params, rules.shardings(params, mesh))["q_proj"]["kernel"]
    assert {shard.data.shape for shard in placed.addressable_shards} == {(3, 8, 16)}
    np.testing.assert_array_equal(placed, params["q_proj"]["kernel"])


def test_an_axis_that_does_not_divide_falls_to_another_dimension():
    mesh = jax.sharding.AbstractMesh((1, 4, 2), AXES)
    tree = {
        "lm_head": {"kernel": leaf(32, 151)},  # tensor falls to the rows, which fsdp divides already
        "patch_embed": {"proj": {"kernel": leaf(117, 16)}},  # and to the columns, likewise
        "up_proj": {"kernel": leaf(3, 6, 6), "bias": leaf(7), "lora_a": leaf(6, 8), "lora_b": leaf(8, 6)},
    }
    specs = jax.tree.map(lambda placed: placed.spec, rules.shardings(tree, mesh))
    assert specs["lm_head"]["kernel"] == Spec(("fsdp", "tensor"), None)
    assert specs["patch_embed"]["proj"]["kernel"] == Spec(None, ("fsdp", "tensor"))
    assert specs["up_proj"] == {
        "kernel": Spec(None, None, "tensor"),
        "bias": Spec(None),
        "lora_a": Spec(None, None),
        "lora_b": Spec(None, "tensor"),
    }
    assert rules.sharding_fallbacks(tree, mesh) == [
        "lm_head.kernel [32, 151]: lies as (('fsdp', 'tensor'), None), its rule being ('fsdp', 'tensor')",
        "patch_embed.proj.kernel [117, 16]: lies as (None, ('fsdp', 'tensor')), its rule being ('tensor', 'fsdp')",
        "up_proj.bias [7]: lies as (None,), its rule being ('tensor',)",
        "up_proj.kernel [3, 6, 6]: lies as (None, None, 'tensor'), its rule being (None, 'fsdp', 'tensor')",
        "up_proj.lora_a [6, 8]: lies as (None, None), its rule being ('fsdp', None)",
    ]


def test_an_array_lies_where_its_axes_fell():
    mesh = make_mesh(config.Mesh(data=1, fsdp=4, tensor=2))
    params = {"lm_head": {"kernel": jnp.arange(16 * 3.0).reshape(16, 3)}}
    placed = jax.device_put(params, rules.shardings(params, mesh))["lm_head"]["kernel"]
    assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 3)}
    np.testing.assert_array_equal(placed, params["lm_head"]["kernel"])


def test_unplaced_parameters_are_all_named():
    tree = {"a": {"gate": leaf(4, 4)}, "q_proj": {"kernel": leaf(4)}, "norm": {"scale": leaf(4)}}
    with pytest.raises(
        ValueError, match=r"(?s)no rule of .*RULES places these; add one:\n  a\.gate\n  q_proj\.kernel$"
    ):
        rules.shardings(tree, make_mesh(config.Mesh()))
