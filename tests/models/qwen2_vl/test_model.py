"""Properties of the model whatever its weights: causality, padding, caches, initialisation, published sizes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small import CONFIG, DEFINITION, EOS, make_params, make_prompts, take

from r1vl_jax.arrays import PackedVision, PromptBatch
from r1vl_jax.models.presets import PRESETS
from r1vl_jax.models.qwen2_vl.cache import SuffixCache
from r1vl_jax.models.qwen2_vl.decode import Decoder
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.sampling.methods import Greedy
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.sampling.weight_sync import sampler_params

PARAMS = make_params()
PROMPTS = make_prompts()


def _features(params, vision: PackedVision):
    return DEFINITION.bind(params).image_features(vision)


def _hidden(params, prompts: PromptBatch, feature_MD, definition: Definition = DEFINITION):
    return definition.bind(params).hidden_states(
        prompts.token_PS,
        mask_BT=prompts.mask_PS,
        position_3BT=prompts.position_3PS,
        feature_index_BT=prompts.feature_index_PS,
        feature_MD=feature_MD,
    )


@jax.jit
def _forward(params, prompts: PromptBatch):
    return _hidden(params, prompts, _features(params, prompts.vision))


def test_a_token_attends_to_the_past_only():
    """The gradient of one position's hidden state with respect to an image token is 0 before that token."""
    feature_MD = jax.jit(_features)(PARAMS, PROMPTS.vision)
    jacobian_SDMD = jax.jacrev(lambda feature: _hidden(PARAMS, take(PROMPTS, [1]), feature)[0, :, :2])(feature_MD)
    influence_S = np.abs(jacobian_SDMD).sum(axis=(1, 2, 3))
    (image_column,) = np.flatnonzero(PROMPTS.feature_index_PS[1] >= 0)
    assert not np.any(influence_S[:image_column])
    assert np.all(influence_S[image_column:] > 1e-3)
    assert not np.any(np.asarray(jacobian_SDMD)[:, :, [0, 2]]), "an image of another prompt has influence"


def test_patches_attend_to_their_own_frame_only():
    def second_feature(patch_ZMC):
        return _features(PARAMS, dataclasses.replace(PROMPTS.vision, patch_ZMC=patch_ZMC))[1].sum()

    gradient_MC = np.asarray(jax.jit(jax.grad(second_feature))(PROMPTS.vision.patch_ZMC)[0])
    np.testing.assert_array_equal(np.flatnonzero(np.any(gradient_MC, axis=1)), [4, 5, 6, 7])


def test_more_padding_changes_nothing():
    wider = make_prompts()
    left = ((0, 0), (5, 0))
    wider = dataclasses.replace(
        wider,
        token_PS=np.pad(wider.token_PS, left, constant_values=3),
        mask_PS=np.pad(wider.mask_PS, left),
        position_3PS=np.pad(wider.position_3PS, ((0, 0), *left)),
        feature_index_PS=np.pad(wider.feature_index_PS, left, constant_values=-1),
        vision=PackedVision(
            np.pad(wider.vision.patch_ZMC, ((0, 0), (0, 8), (0, 0)), constant_values=1.0),
            np.pad(wider.vision.segment_ZM, ((0, 0), (0, 8))),
            np.pad(wider.vision.position_ZM2, ((0, 0), (0, 8), (0, 0))),
        ),
    )
    hidden, hidden_wider = _forward(PARAMS, PROMPTS), _forward(PARAMS, wider)
    np.testing.assert_allclose(hidden_wider[:, 5:][PROMPTS.mask_PS], hidden[PROMPTS.mask_PS], atol=1e-5)
    assert np.isfinite(hidden_wider).all()


def test_permuting_rows_permutes_results():
    order = [2, 0, 1]
    np.testing.assert_allclose(
        _forward(PARAMS, take(PROMPTS, order))[PROMPTS.mask_PS[order]],
        _forward(PARAMS, PROMPTS)[jnp.array(order)][PROMPTS.mask_PS[order]],
        atol=1e-5,
    )


def test_prefill_and_decode_equal_the_forward_pass_of_whole_sequences():
    num_prompts, num_generations, length = 3, 2, 4
    num_rows = num_prompts * num_generations
    token_BT = np.random.default_rng(1).integers(8, 40, (num_rows, length)).astype(np.int32)
    sampler = Sampler(DEFINITION, Greedy(), num_generations, length, (EOS,), ())

    @jax.jit
    def decode_all(params, prompts, token_BT):
        model = DEFINITION.bind(params)
        decoder = Decoder(DEFINITION, sampler_params(sampler, params))
        hidden_PSD, prefix = model.prefill(prompts, model.image_features(prompts.vision))
        suffix = SuffixCache.empty(CONFIG, num_rows, length, jnp.float32)
        angles = decoder.rope_angles(jnp.repeat(prompts.next_position_P, num_generations), length)
        hidden = []
        for step in range(length):
            step_angles = jax.tree.map(lambda angle_BT, step=step: angle_BT[:, step : step + 1], angles)
            hidden_BD, suffix = decoder(
                token_BT[:, step], step_angles, prefix=prefix, suffix=suffix, step=jnp.int32(step)
            )
            hidden.append(hidden_BD)
        return hidden_PSD, jnp.stack(hidden, axis=1)

    hidden_PSD, hidden_BTD = decode_all(PARAMS, PROMPTS, token_BT)
    whole_BSD = _forward(PARAMS, _continue(PROMPTS, token_BT, num_generations))
    prompt_length = PROMPTS.token_PS.shape[1]
    mask_PS = PROMPTS.mask_PS
    np.testing.assert_allclose(hidden_PSD[mask_PS], whole_BSD[::num_generations, :prompt_length][mask_PS], atol=1e-5)
    np.testing.assert_allclose(hidden_BTD, whole_BSD[:, prompt_length:], atol=1e-5)


def _continue(prompts: PromptBatch, token_BT: np.ndarray, num_generations: int) -> PromptBatch:
    """The prompts with their completions appended, row by row."""
    rows = take(prompts, np.repeat(np.arange(len(prompts.token_PS)), num_generations).tolist())
    position_BT = rows.next_position_P[:, None] + np.arange(token_BT.shape[1])
    return dataclasses.replace(
        rows,
        token_PS=np.concatenate([rows.token_PS, token_BT], axis=1),
        mask_PS=np.concatenate([rows.mask_PS, np.ones_like(token_BT, bool)], axis=1),
        position_3PS=np.concatenate([rows.position_3PS, np.broadcast_to(position_BT, (3, *token_BT.shape))], axis=2),
        feature_index_PS=np.concatenate([rows.feature_index_PS, np.full_like(token_BT, -1)], axis=1),
    )


def test_initialisation():
    params = make_params(scale=1.0)
    layers = params["text"]["layers"]
    kernel_LDF = layers["mlp"]["up_proj"]["kernel"]
    assert float(jnp.std(kernel_LDF)) == pytest.approx(kernel_LDF.shape[1] ** -0.5, rel=0.1)
    assert jnp.max(jnp.abs(kernel_LDF[0] - kernel_LDF[1])) > 0.01, "layers start from the same values"
    assert not np.any(layers["self_attn"]["q_proj"]["bias"])
    assert np.all(np.asarray(params["visual"]["blocks"]["norm1"]["scale"]) == 1)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("preset", "num_params", "head"), [("2b", 2_208_985_600, None), ("7b", 8_291_375_616, (3584, 152_064))]
)
def test_published_sizes(preset: str, num_params: int, head: tuple[int, int] | None):
    """Numbers of parameters as the safetensors indices of Qwen2-VL-2B-Instruct and -7B-Instruct report them."""
    params = Definition(PRESETS[preset]).abstract_params()
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == num_params
    assert ("lm_head" in params) == (head is not None)
    assert head is None or params["lm_head"]["kernel"].shape == head
    assert params["visual"]["patch_embed"]["proj"]["kernel"].shape == (1176, 1280)
