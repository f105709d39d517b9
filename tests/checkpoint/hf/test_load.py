"""Loading: every tensor becomes its parameter, both layouts of names, shards, bfloat16, and strictness."""

import json
import re
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from helpers.small import CONFIG, DEFINITION
from safetensors.numpy import save_file

from r1vl_jax import config
from r1vl_jax.arrays import Params
from r1vl_jax.checkpoint.hf.directory import local_directory
from r1vl_jax.checkpoint.hf.load import load_params, read_config
from r1vl_jax.sharding import rules
from r1vl_jax.sharding.mesh import make_mesh

D, KV, F, E = 32, 16, 48, 16  # widths of `small.CONFIG`: text, keys and values, text MLP, vision


def _published_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes ([out, in]) that a published checkpoint of `small.CONFIG` would have, written out by hand."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (48, D), "model.norm.weight": (D,)}
    for i in range(2):
        shapes |= {
            f"model.layers.{i}.input_layernorm.weight": (D,),
            f"model.layers.{i}.self_attn.q_proj.weight": (D, D),
            f"model.layers.{i}.self_attn.q_proj.bias": (D,),
            f"model.layers.{i}.self_attn.k_proj.weight": (KV, D),
            f"model.layers.{i}.self_attn.k_proj.bias": (KV,),
            f"model.layers.{i}.self_attn.v_proj.weight": (KV, D),
            f"model.layers.{i}.self_attn.v_proj.bias": (KV,),
            f"model.layers.{i}.self_attn.o_proj.weight": (D, D),
            f"model.layers.{i}.post_attention_layernorm.weight": (D,),
            f"model.layers.{i}.mlp.gate_proj.weight": (F, D),
            f"model.layers.{i}.mlp.up_proj.weight": (F, D),
            f"model.layers.{i}.mlp.down_proj.weight": (D, F),
            f"visual.blocks.{i}.norm1.weight": (E,),
            f"visual.blocks.{i}.norm1.bias": (E,),
            f"visual.blocks.{i}.attn.qkv.weight": (3 * E, E),
            f"visual.blocks.{i}.attn.qkv.bias": (3 * E,),
            f"visual.blocks.{i}.attn.proj.weight": (E, E),
            f"visual.blocks.{i}.attn.proj.bias": (E,),
            f"visual.blocks.{i}.norm2.weight": (E,),
            f"visual.blocks.{i}.norm2.bias": (E,),
            f"visual.blocks.{i}.mlp.fc1.weight": (4 * E, E),
            f"visual.blocks.{i}.mlp.fc1.bias": (4 * E,),
            f"visual.blocks.{i}.mlp.fc2.weight": (E, 4 * E),
            f"visual.blocks.{i}.mlp.fc2.bias": (E,),
        }
    return shapes | {
        "visual.patch_embed.proj.weight": (E, 3, 2, 14, 14),
        "visual.merger.ln_q.weight": (E,),
        "visual.merger.ln_q.bias": (E,),
        "visual.merger.mlp.0.weight": (4 * E, 4 * E),
        "visual.merger.mlp.0.bias": (4 * E,),
        "visual.merger.mlp.2.weight": (D, 4 * E),
        "visual.merger.mlp.2.bias": (D,),
    }


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in _published_shapes().items()}


def _write(directory: Path, tensors: dict[str, np.ndarray]) -> str:
    save_file(tensors, directory / "model.safetensors")
    return str(directory)


def _write_shards(directory: Path, *shards: dict[str, np.ndarray]) -> str:
    weight_map = {}
    for i, shard in enumerate(shards):
        save_file(shard, directory / f"model-{i}.safetensors")
        weight_map |= dict.fromkeys(shard, f"model-{i}.safetensors")
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return str(directory)


def _load(directory: str, *, mesh: jax.sharding.Mesh | None = None, dtype: str = "float32") -> Params:
    mesh = make_mesh(config.Mesh(), jax.devices()[:1]) if mesh is None else mesh
    placement = rules.shardings(DEFINITION.abstract_params(), mesh)
    return load_params(directory, DEFINITION, placement=placement, dtype=dtype)


def _assert_equal(params: Params, expected: Params):
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_every_tensor_is_in_its_place(tmp_path: Path, tensors: dict[str, np.ndarray]):
    params = _load(_write(tmp_path, tensors))
    layers, visual = params["text"]["layers"], params["visual"]
    for i in range(2):
        np.testing.assert_array_equal(
            layers["mlp"]["up_proj"]["kernel"][i], tensors[f"model.layers.{i}.mlp.up_proj.weight"].T
        )
        np.testing.assert_array_equal(
            layers["input_layernorm"]["scale"][i], tensors[f"model.layers.{i}.input_layernorm.weight"]
        )
        np.testing.assert_array_equal(
            visual["blocks"]["attn"]["qkv"]["bias"][i], tensors[f"visual.blocks.{i}.attn.qkv.bias"]
        )
    np.testing.assert_array_equal(params["text"]["embed_tokens"]["embedding"], tensors["model.embed_tokens.weight"])
    np.testing.assert_array_equal(visual["merger"]["mlp_2"]["kernel"], tensors["visual.merger.mlp.2.weight"].T)
    # A patch is (channel, frame, row, column) flattened, as the convolution's weight is.
    patch = np.random.default_rng(1).normal(size=(3, 2, 14, 14)).astype(np.float32)
    np.testing.assert_allclose(
        patch.ravel() @ visual["patch_embed"]["proj"]["kernel"],
        np.einsum("ecfxy,cfxy->e", tensors["visual.patch_embed.proj.weight"], patch),
        rtol=1e-4,
    )
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, DEFINITION.abstract_params())


def test_later_names_and_shards_give_the_same_parameters(tmp_path: Path, tensors: dict[str, np.ndarray]):
    (tmp_path / "published").mkdir()
    expected = _load(_write(tmp_path / "published", tensors))
    later = {
        name.replace("visual.", "model.visual.")
        if name.startswith("visual.")
        else name.replace("model.", "model.language_model."): tensor
        for name, tensor in tensors.items()
    }
    names = list(later)
    shards = [{name: later[name] for name in part} for part in (names[:20], names[20:])]
    _assert_equal(_load(_write_shards(tmp_path, *shards)), expected)


def test_bfloat16_becomes_float32(tmp_path: Path, tensors: dict[str, np.ndarray]):
    half = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors.items()}
    scale = _load(_write(tmp_path, half))["text"]["norm"]["scale"]
    assert scale.dtype == np.float32
    np.testing.assert_array_equal(scale, half["model.norm.weight"].astype(np.float32))


def test_parameters_are_sharded_over_the_mesh_in_the_given_dtype(tmp_path: Path, tensors: dict[str, np.ndarray]):
    mesh = make_mesh(config.Mesh(data=2, fsdp=2, tensor=2))
    params = _load(_write(tmp_path, tensors), mesh=mesh, dtype="bfloat16")
    for param, expected in zip(jax.tree.leaves(params), jax.tree.leaves(rules.shardings(params, mesh)), strict=True):
        assert (param.sharding, param.dtype) == (expected, ml_dtypes.bfloat16)
    for name, param in {
        "model.layers.1.mlp.down_proj.weight": params["text"]["layers"]["mlp"]["down_proj"]["kernel"][1].T,
        "model.layers.0.self_attn.q_proj.bias": params["text"]["layers"]["self_attn"]["q_proj"]["bias"][0],
        "model.embed_tokens.weight": params["text"]["embed_tokens"]["embedding"],
        "visual.merger.mlp.0.weight": params["visual"]["merger"]["mlp_0"]["kernel"].T,
    }.items():
        np.testing.assert_array_equal(param, tensors[name].astype(ml_dtypes.bfloat16), err_msg=name)
    patch = tensors["visual.patch_embed.proj.weight"].reshape(E, -1).T
    np.testing.assert_array_equal(params["visual"]["patch_embed"]["proj"]["kernel"], patch.astype(ml_dtypes.bfloat16))


def test_a_tied_head_is_accepted_if_it_equals_the_embedding(tmp_path: Path, tensors: dict[str, np.ndarray]):
    head = tensors["model.embed_tokens.weight"].copy()
    params = _load(_write(tmp_path, tensors | {"lm_head.weight": head}))
    np.testing.assert_array_equal(params["text"]["embed_tokens"]["embedding"], head)
    assert "lm_head" not in params
    head[-1, -1] += 1
    message = "extra: lm_head.weight (in model.safetensors) though the configuration ties it to the embedding"
    with pytest.raises(ValueError, match=re.escape(message)):
        _load(_write(tmp_path, tensors | {"lm_head.weight": head}))


def test_one_error_lists_all_faults(tmp_path: Path, tensors: dict[str, np.ndarray]):
    del tensors["visual.blocks.1.norm2.bias"], tensors["model.layers.0.mlp.up_proj.weight"]
    tensors["model.layers.1.mlp.down_proj.weight"] = tensors["model.layers.1.mlp.down_proj.weight"].T.copy()
    tensors["visual.patch_embed.proj.weight"] = tensors["visual.patch_embed.proj.weight"][:, :, :1]
    tensors["model.layers.2.mlp.up_proj.weight"] = np.zeros((F, D), np.float32)
    with pytest.raises(ValueError, match="the weights are not those of this configuration") as error:
        _load(_write(tmp_path, tensors))
    assert str(error.value).splitlines()[1:] == [
        "  extra: model.layers.2.mlp.up_proj.weight (in model.safetensors)",
        "  misshapen: model.layers.1.mlp.down_proj.weight: expected [32, 48], got [48, 32]",
        "  misshapen: visual.patch_embed.proj.weight: expected [16, 3, 2, 14, 14], got [16, 3, 1, 14, 14]",
        "  missing: model.layers.0.mlp.up_proj.weight [48, 32]",
        "  missing: visual.blocks.1.norm2.bias [16]",
    ]


def test_a_repeated_tensor_is_refused(tmp_path: Path, tensors: dict[str, np.ndarray]):
    again = {"model.language_model.norm.weight": tensors["model.norm.weight"]}
    message = (
        "repeated: model.norm.weight (as model.norm.weight in model-0.safetensors,"
        " model.language_model.norm.weight in model-1.safetensors)"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        _load(_write_shards(tmp_path, tensors, again))


def test_a_missing_file_is_named(tmp_path: Path):
    (tmp_path / "README.md").touch()
    with pytest.raises(FileNotFoundError, match=r"safetensors or model.safetensors.index.json, found \['README.md'\]"):
        _load(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="expected config.json"):
        read_config(str(tmp_path))


def test_a_name_that_is_neither_directory_nor_on_the_hub(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("./no/such/directory", "Qwen/No-Such-Model"):
        with pytest.raises(
            FileNotFoundError, match=f"'{name}' is no directory on this machine, and the Hugging Face hub"
        ):
            local_directory(name)


def test_read_config(tmp_path: Path):
    text = {name: getattr(CONFIG, name) for name in ("vocab_size", "hidden_size", "intermediate_size")}
    text |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6}
    text["initializer_range"] = CONFIG.initializer_range
    content = {
        "model_type": "qwen2_vl",
        "text_config": text | {"rope_parameters": {"mrope_section": [2, 1, 1], "rope_theta": 100.0}},
        "vision_config": {"depth": 2, "embed_dim": 16, "num_heads": 2, "hidden_size": 32},
        "tie_word_embeddings": True,
        "image_token_id": 40,
        "video_token_id": 41,
        "vision_start_token_id": 42,
        "vision_end_token_id": 43,
    }
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert read_config(str(tmp_path)) == CONFIG
