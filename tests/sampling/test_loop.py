"""The sampler against full forward passes: what it draws, what it reports, and what its draws depend on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.small import CONFIG, DEFINITION, EOS, IMAGE_TOKEN, VOCAB_SIZE, make_params, make_prompts, take

from r1vl_jax.aot.hlo.parse import parse
from r1vl_jax.learner.learner import Learner
from r1vl_jax.learner.logprobs import compute_logps, concat_prompt_and_completions
from r1vl_jax.sampling import continuous_batching, loop
from r1vl_jax.sampling.loop import prefill, sample
from r1vl_jax.sampling.methods import Greedy, Temperature
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.sampling.weight_sync import sampler_params

FORBIDDEN = (IMAGE_TOKEN, 41, 42, 43)
KEY = jax.random.key(5)
DRAW = Temperature(1.0)


def make_sampler(method=DRAW, num_generations=2, max_length=9, **changes):
    return Sampler(DEFINITION, method, num_generations, max_length, (EOS,), FORBIDDEN, **changes)


@pytest.fixture(scope="module")
def params():
    return make_params()


def logits_of(params, prompts, completions):
    """Logits of every completion position, by one full forward pass without a cache."""
    model = DEFINITION.bind(params)
    sequences = concat_prompt_and_completions(prompts, completions, num_sequences=len(completions.token_BT))
    hidden = model.hidden_states(
        sequences.token_RS,
        mask_BT=sequences.mask_RS,
        position_3BT=jnp.moveaxis(sequences.position_RS3, -1, 0),
        feature_index_BT=sequences.feature_index_RS,
        feature_MD=model.image_features(prompts.vision),
    )
    first = prompts.token_PS.shape[1]
    return np.array(hidden[:, first - 1 : -1] @ model.head())


def test_greedy_is_the_arg_max_of_a_full_forward_pass(params):
    prompts = make_prompts()
    rollout = sample(make_sampler(Greedy(), num_generations=1), params, prompts, KEY)
    logits = logits_of(params, prompts, rollout.completions)
    logits[..., FORBIDDEN] = -np.inf
    mask = np.asarray(rollout.completions.mask_BT)
    assert mask.sum() > 10
    np.testing.assert_array_equal(np.asarray(rollout.completions.token_BT)[mask], logits.argmax(-1)[mask])


def test_reported_logp_and_entropy_are_of_the_full_distribution(params):
    prompts = make_prompts()
    for temperature_in_report in (1.0, 1.7):
        sampler = make_sampler(Temperature(1.3), temperature_in_report=temperature_in_report)
        rollout = sample(sampler, params, prompts, KEY)
        logp = jax.nn.log_softmax(logits_of(params, prompts, rollout.completions) / temperature_in_report)
        chosen = np.take_along_axis(np.asarray(logp), np.asarray(rollout.completions.token_BT)[..., None], -1)[..., 0]
        mask = np.asarray(rollout.completions.mask_BT)
        np.testing.assert_allclose(rollout.logp_BT, np.where(mask, chosen, 0), atol=2e-5)
        entropy = -np.sum(np.exp(logp) * logp, -1)
        np.testing.assert_allclose(rollout.entropy_BT, np.where(mask, entropy, 0), atol=2e-5)


@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_the_learner_scores_what_the_sampler_reported(params, temperature):
    prompts = make_prompts()
    rollout = sample(make_sampler(num_generations=3, temperature_in_report=temperature), params, prompts, KEY)
    learner = Learner(DEFINITION, optax.identity(), chunk_size=16, temperature=temperature)
    logp, entropy = compute_logps(learner, params, prompts, rollout.completions)
    np.testing.assert_allclose(logp, rollout.logp_BT, atol=2e-5)
    np.testing.assert_allclose(entropy, rollout.entropy_BT, atol=2e-5)


def test_a_draw_does_not_depend_on_the_batch_around_it(params):
    prompts = make_prompts(4)
    sampler = make_sampler(num_generations=2)
    whole = sample(sampler, params, prompts, KEY)
    part = sample(sampler, params, take(prompts, [3, 1]), KEY)
    rows = [6, 7, 2, 3]
    np.testing.assert_array_equal(part.completions.mask_BT, whole.completions.mask_BT[jnp.asarray(rows)])
    mask = np.asarray(part.completions.mask_BT)
    np.testing.assert_array_equal(
        np.asarray(part.completions.token_BT)[mask], np.asarray(whole.completions.token_BT)[rows][mask]
    )


def test_samples_of_a_prompt_differ_and_keys_matter(params):
    prompts = make_prompts()
    first = sample(make_sampler(num_generations=2), params, prompts, KEY)
    again = sample(make_sampler(num_generations=2), params, prompts, KEY)
    other = sample(make_sampler(num_generations=2), params, prompts, jax.random.key(6))
    np.testing.assert_array_equal(first.completions.token_BT, again.completions.token_BT)
    assert not np.array_equal(first.completions.token_BT, other.completions.token_BT)
    assert not np.array_equal(first.completions.token_BT[0], first.completions.token_BT[1])


def test_more_padding_changes_nothing(params):
    prompts = make_prompts()

    def pad(array, value=0):
        widths = [(0, 0)] * (array.ndim - 1) + [(5, 0)]
        return np.pad(array, widths, constant_values=value)

    padded = dataclasses.replace(
        prompts,
        token_PS=pad(prompts.token_PS, IMAGE_TOKEN),
        mask_PS=pad(prompts.mask_PS),
        position_3PS=pad(prompts.position_3PS),
        feature_index_PS=pad(prompts.feature_index_PS, -1),
    )
    plain, more = (sample(make_sampler(), params, p, KEY) for p in (prompts, padded))
    np.testing.assert_array_equal(plain.completions.token_BT, more.completions.token_BT)
    np.testing.assert_allclose(plain.logp_BT, more.logp_BT, atol=1e-5)


def test_vision_tokens_are_never_drawn(params):
    biased = jax.tree.map(lambda leaf: leaf, params)
    embedding = params["text"]["embed_tokens"]["embedding"]
    biased["text"]["embed_tokens"]["embedding"] = embedding.at[jnp.asarray(FORBIDDEN)].multiply(30.0)
    rollout = sample(make_sampler(num_generations=8), biased, make_prompts(), KEY)
    logits = logits_of(biased, make_prompts(), rollout.completions)
    assert np.isin(logits.argmax(-1), FORBIDDEN).any()  # they would have been drawn
    assert not np.isin(np.asarray(rollout.completions.token_BT), FORBIDDEN).any()


def test_the_mask_ends_with_the_first_end_token_and_the_loop_ends_early(params):
    always_end = jax.tree.map(lambda leaf: leaf, params)
    always_end["text"]["embed_tokens"]["embedding"] = params["text"]["embed_tokens"]["embedding"] * 0.01
    sampler = dataclasses.replace(make_sampler(num_generations=4, max_length=64), eos_token_ids=tuple(range(24)))
    rollout = sample(sampler, always_end, make_prompts(), KEY)
    token, mask = np.asarray(rollout.completions.token_BT), np.asarray(rollout.completions.mask_BT)
    assert rollout.has_ended_B.all()
    assert int(rollout.num_steps) == mask.sum(axis=1).max() < 64
    for row in range(len(token)):
        length = mask[row].sum()
        assert mask[row, :length].all()
        assert token[row, length - 1] < 24
        assert (token[row, : length - 1] >= 24).all()


def test_nothing_ends_without_an_end_token(params):
    never = (VOCAB_SIZE - 1,)
    sampler = dataclasses.replace(make_sampler(), eos_token_ids=never, forbidden_token_ids=never)
    rollout = sample(sampler, params, make_prompts(), KEY)
    assert rollout.completions.mask_BT.all()
    assert not rollout.has_ended_B.any()
    assert CONFIG.vocab_size == VOCAB_SIZE


def test_reading_prompts_costs_the_same_for_any_number_of_completions(params):
    programs = {
        prefill(make_sampler(num_generations=number)).lower(params, make_prompts()).as_text() for number in (1, 8)
    }
    assert len(programs) == 1


@pytest.mark.parametrize("slots", [1, 4, 5])
def test_slots_draw_what_rows_of_their_own_would(params, slots):
    """Also where a prompt's samples meet different neighbours, and slots do not divide the rows."""
    prompts = make_prompts(4)
    sampler = dataclasses.replace(make_sampler(num_generations=3, max_length=20), eos_token_ids=(EOS, 8, 9, 10))
    together = sample(sampler, params, prompts, KEY)
    queued = sample(dataclasses.replace(sampler, slots=slots), params, prompts, KEY)
    lengths = np.asarray(together.completions.mask_BT).sum(1)
    assert len(set(lengths)) > 3
    np.testing.assert_array_equal(together.completions.mask_BT, queued.completions.mask_BT)
    np.testing.assert_array_equal(together.has_ended_B, queued.has_ended_B)
    tokens = (np.where(np.asarray(r.completions.mask_BT), r.completions.token_BT, 0) for r in (together, queued))
    np.testing.assert_array_equal(*tokens)
    np.testing.assert_allclose(together.logp_BT, queued.logp_BT, atol=2e-5)
    np.testing.assert_allclose(together.entropy_BT, queued.entropy_BT, atol=2e-5)
    assert queued.num_steps >= -(-lengths.sum() // slots)
    assert slots > 1 or queued.num_steps == lengths.sum()


def test_slots_are_hardly_ever_idle(params, monkeypatch):
    """128 rows of 16 to 512 tokens by 16 slots; each row's random numbers say whether its token is the last."""

    def uniforms(row_key_B, length):
        length_B1 = jax.vmap(lambda key: jax.random.randint(key, (1,), 16, 513))(row_key_B)
        is_last_BT = jnp.arange(length)[None] + 1 == length_B1
        return jnp.stack([is_last_BT, is_last_BT], axis=-1).astype(jnp.float32)

    def draw(sampler, head_DV, hidden_BD, uniform_B2):
        return jnp.where(uniform_B2[:, 0] == 1, EOS, 9), hidden_BD[:, 0], hidden_BD[:, 1]

    monkeypatch.setattr(loop, "uniforms", uniforms)
    for module in (loop, continuous_batching):
        monkeypatch.setattr(module, "sample_token", draw)
    sampler = make_sampler(num_generations=8, max_length=512, slots=16, temperature_in_report=1.125)
    rollout = sample(sampler, params, make_prompts(16), KEY)
    lengths = np.asarray(rollout.completions.mask_BT).sum(1)
    assert len(lengths) == 128
    assert lengths.min() < 40
    assert lengths.max() > 480
    assert rollout.num_steps <= 1.25 * lengths.sum() / 16


@pytest.mark.parametrize("slots", [0, 4])
def test_no_cache_and_no_weight_is_copied_for_a_token(params, slots):
    """Of their shapes, the compiled loop has keys and values of each layer only, and writes these in place."""
    sampler = make_sampler(num_generations=4, max_length=64, slots=slots)
    copy, prefilled = sampler_params(sampler, params), prefill(sampler)(params, make_prompts())
    program = parse(loop.decode(sampler).lower(copy, prefilled, KEY).compile().as_text())
    rows, heads, width = slots or 12, CONFIG.num_key_value_heads, CONFIG.head_dim
    large = {(rows, heads, 64, width), (rows, heads, width, 64)}
    large |= {leaf.shape for leaf in jax.tree.leaves(copy) if leaf.ndim == 2}
    computed = [
        instruction.name
        for instruction, _, times in program.executed()
        if times >= 64 and instruction.opcode not in ("get-tuple-element", "tuple", "bitcast", "parameter")
        for array in instruction.arrays
        if array.dims in large
    ]
    assert len(computed) == 2 * CONFIG.num_hidden_layers
    assert all("dynamic-update-slice" in name or "scatter" in name for name in computed)
