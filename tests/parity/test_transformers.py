"""Both architectures against transformers' torch models, with the same random weights and inputs, in float32."""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from helpers.twins import ARCHITECTURES, IMAGE, VIDEO, Twins, make_inputs, make_twins, to_torch
from transformers.vision_utils import get_vision_window_index

from r1vl_jax.arrays import PromptBatch
from r1vl_jax.data.processor import from_inputs
from r1vl_jax.models.qwen2_vl.model import Definition, Params, Qwen2VL
from r1vl_jax.models.qwen2_vl.rope import text_rope_angles, vision_rope_angles

TOLERANCE = 1e-4


class Outputs(NamedTuple):
    """Of this package's model: outputs of each vision block, features, hidden states as in transformers, logits."""

    block_LME: np.ndarray
    feature_MD: np.ndarray
    hidden_LBTD: np.ndarray
    logits_BTV: np.ndarray


CASES = {
    "text only": make_inputs([[], []]),
    "one image": make_inputs([[(1, 6, 10)]]),  # windows of 4x4, 4x2, 2x4 and 2x2 patches
    "two images of different size in one prompt": make_inputs([[(1, 4, 6), (1, 2, 4)]]),
    "different numbers of images": make_inputs([[(1, 4, 2), (1, 2, 6)], [], [(1, 4, 4)]]),
    "padding on the right": make_inputs([[(1, 4, 2), (1, 2, 6)], [], [(1, 4, 4)]], padding_side="right"),
    "a video": make_inputs([[(3, 4, 2)], [(2, 2, 4)]], is_video=True),
}
SECONDS = np.array([0.7, 1.4], np.float32)  # a temporal patch of each video in CASES; times 3 no integer positions


@pytest.fixture(scope="module", params=ARCHITECTURES)
def tied(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    return make_twins(tmp_path_factory.mktemp("tied"), tie_word_embeddings=True, architecture=request.param)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def untied(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    return make_twins(tmp_path_factory.mktemp("untied"), tie_word_embeddings=False, architecture=request.param)


@pytest.mark.parametrize("inputs", CASES.values(), ids=CASES.keys())
def test_hidden_states_and_logits(tied: Twins, inputs: dict[str, np.ndarray]):
    with torch.no_grad():
        expected = tied.torch_model(**to_torch(inputs), output_hidden_states=True)
    is_real_BT = inputs["attention_mask"] != 0
    outputs = _forward(tied, inputs)
    assert len(outputs.hidden_LBTD) == len(expected.hidden_states) == 4
    for layer, (hidden_BTD, expected_BTD) in enumerate(zip(outputs.hidden_LBTD, expected.hidden_states, strict=True)):
        _assert_close(hidden_BTD[is_real_BT], expected_BTD.numpy()[is_real_BT], f"layer {layer}")
    _assert_close(outputs.logits_BTV[is_real_BT], expected.logits.numpy()[is_real_BT], "logits")
    assert np.isfinite(outputs.hidden_LBTD).all()


def test_logits_with_an_untied_head(untied: Twins):
    inputs = CASES["different numbers of images"]
    is_real_BT = inputs["attention_mask"] != 0
    with torch.no_grad():
        expected = untied.torch_model(**to_torch(inputs)).logits.numpy()
    _assert_close(untied.ours(**inputs)[is_real_BT], expected[is_real_BT], "logits")


@pytest.mark.parametrize("name", ["one image", "different numbers of images"])
def test_vision_blocks_and_features(tied: Twins, name: str):
    inputs = CASES[name]
    tensors = to_torch(inputs)
    with torch.no_grad():
        expected = tied.torch_model.model.visual(
            tensors["pixel_values"], grid_thw=tensors["image_grid_thw"], output_hidden_states=True
        )
    outputs = _forward(tied, inputs)
    assert len(outputs.block_LME) == len(expected.hidden_states)
    for block, (x_ME, expected_ME) in enumerate(zip(outputs.block_LME, expected.hidden_states, strict=True)):
        expected_ME = _in_input_order(expected_ME, tensors["image_grid_thw"], tied)
        _assert_close(x_ME[: len(expected_ME)], expected_ME, f"block {block}")
    expected_MD = expected.pooler_output.numpy()
    _assert_close(outputs.feature_MD[: len(expected_MD)], expected_MD, "features")
    assert np.isfinite(outputs.feature_MD).all()


@pytest.mark.parametrize("untied", ["qwen2_5_vl"], indirect=True)
def test_a_video_with_seconds_per_frame(untied: Twins):
    inputs = CASES["a video"] | {"second_per_grid_ts": SECONDS}
    is_real_BT = inputs["attention_mask"] != 0
    with torch.no_grad():
        expected = untied.torch_model(**to_torch(inputs)).logits.numpy()
    logits = np.asarray(untied.ours(**inputs))
    _assert_close(logits[is_real_BT], expected[is_real_BT], "logits")
    assert np.abs(logits - untied.ours(**CASES["a video"])).max() > 0.01, "the seconds have no effect"


@pytest.mark.parametrize("untied", ["qwen2_5_vl"], indirect=True)
def test_bfloat16_stays_near_float32(untied: Twins):
    inputs = CASES["different numbers of images"]
    expected = untied.ours(**inputs)
    definition = dataclasses.replace(untied.ours.definition, dtype="bfloat16")
    logits = dataclasses.replace(untied.ours, definition=definition)(**inputs)
    assert logits.dtype == np.float32
    # bfloat16 has 8 significant bits: an error of some per cent of the logits' standard deviation, and never exactly 0.
    assert 1e-4 < np.abs(logits - expected).mean() / np.std(expected) < 0.1


def _forward(twins: Twins, inputs: dict[str, np.ndarray]) -> Outputs:
    """Runs a case padded to the shape of the largest one, so that one compiled program serves all."""
    num_rows, length = inputs["input_ids"].shape
    padding = ((0, 3 - num_rows), (0, 24 - length))
    names = ("input_ids", "attention_mask", "mm_token_type_ids")
    batch = from_inputs(
        inputs | {name: np.pad(inputs[name], padding) for name in names},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        tokens_per_second=twins.ours.definition.config.vision.tokens_per_second,
        patch_bucket=64,
    )
    outputs = jax.tree.map(np.asarray, _compute(twins.ours.definition, twins.ours.params, batch))
    return outputs._replace(
        hidden_LBTD=outputs.hidden_LBTD[:, :num_rows, :length], logits_BTV=outputs.logits_BTV[:num_rows, :length]
    )


@partial(jax.jit, static_argnums=0)
def _compute(definition: Definition, params: Params, batch: PromptBatch) -> Outputs:
    model = definition.bind(params)
    feature_MD = model.image_features(batch.vision)
    hidden_BTD = model.hidden_states(
        batch.token_PS,
        mask_BT=batch.mask_PS,
        position_3BT=batch.position_3PS,
        feature_index_BT=batch.feature_index_PS,
        feature_MD=feature_MD,
    )
    layer_inputs = _layer_inputs(model, batch, feature_MD)
    return Outputs(
        block_LME=jnp.concatenate(list(_block_outputs(model, batch))),
        feature_MD=feature_MD,
        hidden_LBTD=jnp.stack([*layer_inputs, hidden_BTD]),
        logits_BTV=hidden_BTD @ model.head(),
    )


def _block_outputs(model: Qwen2VL, batch: PromptBatch) -> Iterator[jax.Array]:
    """Outputs of the patch embedding and of each vision block, run one by one."""
    tower, vision = model.visual, batch.vision
    angles = vision_rope_angles(vision.position_ZM2, tower.config.head_dim)
    x_ZME = tower.patch_embed.proj(vision.patch_ZMC)
    yield x_ZME
    blocks = _unstacked(tower.blocks, tower.config.depth)
    for block, segment_ZM in zip(blocks, tower.segment_ids(vision), strict=True):
        x_ZME = block(x_ZME, angles, segment_ZM)
        yield x_ZME


def _layer_inputs(model: Qwen2VL, batch: PromptBatch, feature_MD: jax.Array) -> Iterator[jax.Array]:
    """Inputs of each decoder layer, run one by one."""
    x_BTD = model.embed(batch.token_PS, batch.feature_index_PS, feature_MD)
    angles = text_rope_angles(batch.position_3PS, model.definition.config)
    for layer in _unstacked(model.text.layers, model.definition.config.num_hidden_layers):
        yield x_BTD
        x_BTD, _ = layer(x_BTD, angles, batch.mask_PS)


def _unstacked(layers: nnx.Module, num_layers: int) -> list[Any]:
    graphdef, state = nnx.split(layers)
    return [nnx.merge(graphdef, jax.tree.map(lambda leaf, i=i: leaf[i], state)) for i in range(num_layers)]


def _in_input_order(x_ME: torch.Tensor, grids: torch.Tensor, twins: Twins) -> np.ndarray:
    """Patches in the order of the input: transformers sorts them by window inside Qwen2.5-VL's tower."""
    vision = twins.torch_model.config.vision_config
    if vision.model_type != "qwen2_5_vl_vision":
        return x_ME.numpy()
    order, _ = get_vision_window_index(grids, vision.spatial_merge_size, vision.window_size, vision.patch_size)
    return x_ME.reshape(len(order), -1, x_ME.shape[-1])[order.argsort()].reshape(x_ME.shape).numpy()


def _assert_close(actual: np.ndarray, expected: np.ndarray, what: str):
    assert expected.std() > 0.1, f"{what}: values too small for a tolerance of {TOLERANCE} to mean anything"
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE, err_msg=what)
