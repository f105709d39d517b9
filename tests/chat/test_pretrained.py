"""Calling a model with a processor's outputs; tests/parity compares the logits with transformers'."""

import jax
import numpy as np
import pytest
from helpers.small import DEFINITION, IMAGE_TOKEN, VOCAB_SIZE, make_params

from r1vl_jax import config
from r1vl_jax.chat.pretrained import Pretrained
from r1vl_jax.sharding import rules
from r1vl_jax.sharding.mesh import make_mesh

MODEL = Pretrained(DEFINITION, make_params())
TOKEN_BT = np.array([[9, IMAGE_TOKEN, 10], [11, 12, 13]])
IMAGE = {
    "pixel_values": np.random.default_rng(0).normal(size=(4, 1176)).astype(np.float32),
    "image_grid_thw": np.array([[1, 2, 2]]),
}


def test_mask_and_token_types_are_optional():
    expected = MODEL(
        input_ids=TOKEN_BT,
        attention_mask=np.ones_like(TOKEN_BT),
        mm_token_type_ids=(TOKEN_BT == IMAGE_TOKEN).astype(int),
        **IMAGE,
    )
    assert expected.shape == (2, 3, VOCAB_SIZE)
    np.testing.assert_array_equal(MODEL(input_ids=TOKEN_BT, **IMAGE), expected)


def test_parameters_may_be_sharded_over_a_mesh():
    mesh = make_mesh(config.Mesh(data=1, fsdp=4, tensor=2))
    params = jax.device_put(MODEL.params, rules.shardings(MODEL.params, mesh))
    actual = Pretrained(DEFINITION, params)(input_ids=TOKEN_BT, **IMAGE)
    np.testing.assert_allclose(actual, MODEL(input_ids=TOKEN_BT, **IMAGE), atol=1e-4)


def test_token_ids_of_another_tokenizer_are_refused():
    with pytest.raises(ValueError, match="input_ids: expected ids from 0 to 47, got 9 to 151655; were they made by"):
        MODEL(input_ids=np.array([[9, 151655]]))


def test_an_image_without_its_tokens_is_refused():
    with pytest.raises(ValueError, match="1 images take 1 tokens, but the prompts have 0 image tokens"):
        MODEL(input_ids=np.array([[9, 10]]), **IMAGE)
