"""The mesh and the table of placements, on eight virtual devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as Spec
from small import DEFINITION

from r1vl_jax import config, sharding
from r1vl_jax.models.lora import LoRA


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


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        (config.Mesh(), (8, 1, 1)),
        (config.Mesh(data=1, fsdp=-1, tensor=2), (1, 4, 2)),
        (config.Mesh(data=2, fsdp=2, tensor=2), (2, 2, 2)),
    ],
)
def test_mesh_fills_the_open_axis(sizes, shape):
    mesh = sharding.make_mesh(sizes)
    assert mesh.devices.shape == shape
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert {device.id for device in mesh.devices.flat} == set(range(8))


def test_mesh_of_some_devices():
    mesh = sharding.make_mesh(config.Mesh(fsdp=2), jax.devices()[4:])
    assert mesh.devices.shape == (2, 2, 1)
    assert {device.id for device in mesh.devices.flat} == {4, 5, 6, 7}


@pytest.mark.parametrize("sizes", [config.Mesh(fsdp=3), config.Mesh(1, 2, 2), config.Mesh(tensor=16)])
def test_mesh_that_leaves_devices_out_is_refused(sizes):
    asked = rf"mesh.data={sizes.data} x mesh.fsdp={sizes.fsdp} x mesh.tensor={sizes.tensor} does not use all 8 devices"
    with pytest.raises(ValueError, match=rf"{asked}: .* whose product is one of \[1, 2, 4, 8\]"):
        sharding.make_mesh(sizes)


@pytest.mark.parametrize("sizes", [config.Mesh(fsdp=-1), config.Mesh(fsdp=0), config.Mesh(tensor=-2)])
def test_mesh_with_meaningless_sizes_is_refused(sizes):
    with pytest.raises(ValueError, match="expected sizes of at least 1, one of which may be -1; set mesh.data=-1"):
        sharding.make_mesh(sizes)


def test_every_parameter_has_its_place():
    mesh = sharding.make_mesh(config.Mesh(data=1, fsdp=4, tensor=2))
    specs = jax.tree.map(lambda placed: placed.spec, sharding.shardings(qwen2_vl_params(), mesh))
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
    assert visual["patch_embed"]["proj"]["kernel"] == Spec(None, "fsdp")
    assert visual["merger"]["mlp_0"]["kernel"] == Spec("fsdp", "tensor")


def test_adapters_are_divided_as_their_matrices():
    """The columns or rows that tensor divides in a matrix, and the width that fsdp divides; never the rank."""
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    lora = LoRA(4, 4.0, (*names, "qkv", "proj", "fc1", "fc2", "mlp_0", "mlp_2"))
    params = dataclasses.replace(DEFINITION, lora=lora).abstract_params()
    placed = sharding.shardings(params, sharding.make_mesh(config.Mesh(data=1, fsdp=4, tensor=2)))
    flat = {path: placed.spec for path, placed in flatten_dict(placed, sep=".").items()}
    adapters = [path.removesuffix(".lora_a") for path in flat if path.endswith(".lora_a")]
    assert len(adapters) == len(lora.target_modules)
    for path in adapters:
        *layers, rows, columns = flat[f"{path}.kernel"]
        assert flat[f"{path}.lora_a"] == Spec(*layers, rows, None), path
        assert flat[f"{path}.lora_b"] == Spec(*layers, None, columns), path


def test_optimizer_state_lies_as_its_parameters():
    mesh = sharding.make_mesh(config.Mesh(data=2, fsdp=2, tensor=2))
    params = qwen2_vl_params()
    state = jax.eval_shape(optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)).init, params)
    placed = sharding.shardings(state, mesh)
    assert placed[1][0].mu == sharding.shardings(params, mesh)
    assert placed[1][0].count.spec == Spec()


def test_placed_arrays_hold_their_part():
    mesh = sharding.make_mesh(config.Mesh(data=1, fsdp=4, tensor=2))
    params = {"q_proj": {"kernel": jnp.arange(3 * 32 * 32.0).reshape(3, 32, 32)}}
    placed = jax.device_put(params, sharding.shardings(params, mesh))["q_proj"]["kernel"]
    assert {shard.data.shape for shard in placed.addressable_shards} == {(3, 8, 16)}
    np.testing.assert_array_equal(placed, params["q_proj"]["kernel"])


def test_an_axis_that_does_not_divide_is_left_out():
    mesh = sharding.make_mesh(config.Mesh(data=1, fsdp=4, tensor=2))
    placed = sharding.shardings({"lm_head": {"kernel": leaf(32, 151)}, "up_proj": {"kernel": leaf(6, 8)}}, mesh)
    assert placed["lm_head"]["kernel"].spec == Spec("fsdp", None)
    assert placed["up_proj"]["kernel"].spec == Spec(None, "tensor")


def test_unplaced_parameters_are_all_named():
    tree = {"a": {"gate": leaf(4, 4)}, "q_proj": {"kernel": leaf(4)}, "norm": {"scale": leaf(4)}}
    with pytest.raises(
        ValueError, match=r"(?s)no rule of .*RULES places these; add one:\n  a\.gate\n  q_proj\.kernel$"
    ):
        sharding.shardings(tree, sharding.make_mesh(config.Mesh()))
