"""The port against transformers' torch model: the same random weights, the same inputs, float32."""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from parity.twins import IMAGE, VIDEO, Twins, make_inputs, make_twins, to_torch

from r1vl_jax.arrays import PromptBatch
from r1vl_jax.data.prompts import from_inputs
from r1vl_jax.models.qwen2_vl.model import Definition, Params, Qwen2VL
from r1vl_jax.models.qwen2_vl.rope import text_rotation

TOLERANCE = 1e-4


class Outputs(NamedTuple):
    """Of our model: features of the images, hidden states in transformers' order, logits."""

    feature_MD: np.ndarray
    hidden_LBTD: np.ndarray
    logits_BTV: np.ndarray


CASES = {
    "text only": make_inputs([[], []]),
    "one image": make_inputs([[(1, 4, 6)]]),
    "two images of different size in one prompt": make_inputs([[(1, 4, 6), (1, 2, 4)]]),
    "different numbers of images": make_inputs([[(1, 4, 2), (1, 2, 6)], [], [(1, 4, 4)]]),
    "padding on the right": make_inputs([[(1, 4, 2), (1, 2, 6)], [], [(1, 4, 4)]], padding_side="right"),
    "a video": make_inputs([[(3, 4, 2)], [(2, 2, 4)]], is_video=True),
}


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Twins:
    return make_twins(tmp_path_factory.mktemp("tied"), tie_word_embeddings=True)


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Twins:
    return make_twins(tmp_path_factory.mktemp("untied"), tie_word_embeddings=False)


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


def test_logits_of_an_untied_head(untied: Twins):
    inputs = CASES["different numbers of images"]
    is_real_BT = inputs["attention_mask"] != 0
    with torch.no_grad():
        expected = untied.torch_model(**to_torch(inputs)).logits.numpy()
    _assert_close(untied.ours(**inputs)[is_real_BT], expected[is_real_BT], "logits")


def test_image_features(tied: Twins):
    inputs = CASES["different numbers of images"]
    given = to_torch(inputs)
    with torch.no_grad():
        features = tied.torch_model.model.get_image_features(given["pixel_values"], given["image_grid_thw"])
    expected_MD = torch.cat(features.pooler_output).numpy()
    feature_MD = _forward(tied, inputs).feature_MD
    _assert_close(feature_MD[: len(expected_MD)], expected_MD, "features")
    assert np.isfinite(feature_MD).all()


def test_bfloat16_stays_near_float32(untied: Twins):
    inputs = CASES["different numbers of images"]
    expected = untied.ours(**inputs)
    definition = dataclasses.replace(untied.ours.definition, dtype="bfloat16")
    logits = dataclasses.replace(untied.ours, definition=definition)(**inputs)
    assert logits.dtype == np.float32
    # bfloat16 has 8 bits: some per cent of the logits' spread after five layers, and never exactly nothing.
    assert 1e-4 < np.abs(logits - expected).mean() / np.std(expected) < 0.1


def _forward(twins: Twins, inputs: dict[str, np.ndarray]) -> Outputs:
    batch = from_inputs(inputs, image_token_id=IMAGE, video_token_id=VIDEO, patch_bucket=64)
    return jax.tree.map(np.asarray, _compute(twins.ours.definition, twins.ours.params, batch))


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
    inputs_of_layers = _inputs_of_layers(model, batch, feature_MD)
    return Outputs(feature_MD, jnp.stack([*inputs_of_layers, hidden_BTD]), hidden_BTD @ model.head())


def _inputs_of_layers(model: Qwen2VL, batch: PromptBatch, feature_MD: jax.Array) -> Iterator[jax.Array]:
    """What enters each decoder layer, the layers taken apart."""
    x_BTD = model.embed(batch.token_PS, batch.feature_index_PS, feature_MD)
    rotation = text_rotation(batch.position_3PS, model.definition.config)
    for layer in model.unstack():
        yield x_BTD
        x_BTD, _ = layer(x_BTD, rotation, batch.mask_PS)


def _assert_close(actual: np.ndarray, expected: np.ndarray, what: str):
    assert expected.std() > 0.1, f"{what}: too small to tell right from wrong at {TOLERANCE}"
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE, err_msg=what)
