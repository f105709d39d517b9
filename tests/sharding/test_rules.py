"""The table of sharding rules."""

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
    """Abstract parameters with the paths of Qwen2-VL: 3 layers, 8 query and 2 KV heads of 4, width 32, 144 tokens."""
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


def test_specs_of_qwen2_vl():
    mesh = make_mesh(config.Mesh(data=1, fsdp=4, tensor=2))
    specs = jax.tree.map(lambda sharding: sharding.spec, rules.shardings(qwen2_vl_params(), mesh))
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


def test_lora_matrices_are_sharded_as_their_kernel():
    """In the rows and columns of the kernel; the rank is never sharded."""
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    lora = LoRA(4, 4.0, (*names, "qkv", "proj", "fc1", "fc2", "mlp_0", "mlp_2"))
    params = dataclasses.replace(DEFINITION, lora=lora).abstract_params()
    shardings = rules.shardings(params, make_mesh(config.Mesh(data=1, fsdp=4, tensor=2)))
    flat = {path: sharding.spec for path, sharding in flatten_dict(shardings, sep=".").items()}
    adapters = [path.removesuffix(".lora_a") for path in flat if path.endswith(".lora_a")]
    assert len(adapters) == len(lora.target_modules)
    for path in adapters:
        *layers, rows, columns = flat[f"{path}.kernel"]
        assert flat[f"{path}.lora_a"] == Spec(*layers, rows, None), path
        assert flat[f"{path}.lora_b"] == Spec(*layers, None, columns), path


def test_optimizer_state_is_sharded_as_its_parameters():
    mesh = make_mesh(config.Mesh(data=2, fsdp=2, tensor=2))
    params = qwen2_vl_params()
    state = jax.eval_shape(optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)).init, params)
    adam = rules.shardings(state, mesh)[1][0]
    assert adam.mu == adam.nu == rules.shardings(params, mesh)
    assert adam.count.spec == Spec()


def test_each_device_holds_its_shard():
    mesh = make_mesh(config.Mesh(data=1, fsdp=4, tensor=2))
    params = {"q_proj": {"kernel": jnp.arange(3 * 32 * 32.0).reshape(3, 32, 32)}}
    kernel = jax.device_put(params, rules.shardings(params, mesh))["q_proj"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(3, 8, 16)}
    np.testing.assert_array_equal(kernel, params["q_proj"]["kernel"])


def test_an_axis_that_does_not_divide_falls_back_to_another_dimension():
    mesh = jax.sharding.AbstractMesh((1, 4, 2), AXES)
    tree = {
        "lm_head": {"kernel": leaf(32, 151)},  # tensor falls back to the rows, with fsdp
        "patch_embed": {"proj": {"kernel": leaf(117, 16)}},  # fsdp, to the columns, with tensor
        "up_proj": {"kernel": leaf(3, 6, 6), "bias": leaf(7), "lora_a": leaf(6, 8), "lora_b": leaf(8, 6)},
    }
    specs = jax.tree.map(lambda sharding: sharding.spec, rules.shardings(tree, mesh))
    assert specs["lm_head"]["kernel"] == Spec(("fsdp", "tensor"), None)
    assert specs["patch_embed"]["proj"]["kernel"] == Spec(None, ("fsdp", "tensor"))
    assert specs["up_proj"] == {
        "kernel": Spec(None, None, "tensor"),
        "bias": Spec(None),
        "lora_a": Spec(None, None),
        "lora_b": Spec(None, "tensor"),
    }
    assert rules.sharding_fallbacks(tree, mesh) == [
        "lm_head.kernel [32, 151]: sharded as (('fsdp', 'tensor'), None); the rule is ('fsdp', 'tensor')",
        "patch_embed.proj.kernel [117, 16]: sharded as (None, ('fsdp', 'tensor')); the rule is ('tensor', 'fsdp')",
        "up_proj.bias [7]: sharded as (None,); the rule is ('tensor',)",
        "up_proj.kernel [3, 6, 6]: sharded as (None, None, 'tensor'); the rule is (None, 'fsdp', 'tensor')",
        "up_proj.lora_a [6, 8]: sharded as (None, None); the rule is ('fsdp', None)",
    ]


def test_a_fallback_shards_the_array():
    mesh = make_mesh(config.Mesh(data=1, fsdp=4, tensor=2))
    params = {"lm_head": {"kernel": jnp.arange(16 * 3.0).reshape(16, 3)}}
    kernel = jax.device_put(params, rules.shardings(params, mesh))["lm_head"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(2, 3)}
    np.testing.assert_array_equal(kernel, params["lm_head"]["kernel"])


def test_parameters_without_a_rule_are_all_listed():
    tree = {"a": {"gate": leaf(4, 4)}, "q_proj": {"kernel": leaf(4)}, "norm": {"scale": leaf(4)}}
    with pytest.raises(ValueError, match=r"(?s)RULES has no rule for these; add one:\n  a\.gate\n  q_proj\.kernel$"):
        rules.shardings(tree, make_mesh(config.Mesh()))
