"""The table of names, for the parameters that Qwen2.5-VL has and Qwen2-VL lacks."""

import jax

from r1vl_jax.checkpoint.hf.names import tensors_of
from r1vl_jax.models.presets import preset
from r1vl_jax.models.qwen2_vl.model import Definition


def test_published_names_of_the_tower_of_qwen2_5_vl():
    config = preset("2.5-tiny")
    leaves, _ = jax.tree_util.tree_flatten_with_path(Definition(config).abstract_params()["visual"])
    paths = {f"visual.{jax.tree_util.keystr(path, simple=True, separator='.')}": leaf.shape for path, leaf in leaves}
    tensors = [tensor for path, shape in paths.items() for tensor in tensors_of(path, shape, config)]
    expected = {
        "visual.patch_embed.proj.weight": (96, 3, 2, 14, 14),
        "visual.merger.ln_q.weight": (96,),
        "visual.merger.mlp.0.weight": (384, 384),
        "visual.merger.mlp.0.bias": (384,),
        "visual.merger.mlp.2.weight": (128, 384),
        "visual.merger.mlp.2.bias": (128,),
    }
    for i in range(2):
        expected |= {
            f"visual.blocks.{i}.norm1.weight": (96,),
            f"visual.blocks.{i}.norm2.weight": (96,),
            f"visual.blocks.{i}.attn.qkv.weight": (288, 96),
            f"visual.blocks.{i}.attn.qkv.bias": (288,),
            f"visual.blocks.{i}.attn.proj.weight": (96, 96),
            f"visual.blocks.{i}.attn.proj.bias": (96,),
            f"visual.blocks.{i}.mlp.gate_proj.weight": (256, 96),
            f"visual.blocks.{i}.mlp.gate_proj.bias": (256,),
            f"visual.blocks.{i}.mlp.up_proj.weight": (256, 96),
            f"visual.blocks.{i}.mlp.up_proj.bias": (256,),
            f"visual.blocks.{i}.mlp.down_proj.weight": (96, 256),
            f"visual.blocks.{i}.mlp.down_proj.bias": (96,),
        }
    assert {tensor.name: tensor.shape for tensor in tensors} == expected
