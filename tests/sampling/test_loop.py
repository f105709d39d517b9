"""The sampler against full forward passes: what it samples, what it reports, and what its samples depend on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.small import CONFIG, DEFINITION, EOS, IMAGE_TOKEN, VOCAB_SIZE, make_params, make_prompts, take

from r1vl_jax.aot.hlo.parse import parse_hlo
from r1vl_jax.learner.learner import Learner
from r1vl_jax.learner.logprobs import compute_logps, concat_prompt_and_completions
from r1vl_jax.sampling import loop
from r1vl_jax.sampling.loop import prefill, sample
from r1vl_jax.sampling.methods import Greedy, Temperature
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.sampling.weight_sync import sampler_params

FORBIDDEN = (IMAGE_TOKEN, 41, 42, 43)
KEY = jax.random.key(5)
PLAIN = Temperature(1.0)


def make_sampler(method=PLAIN, num_generations=2, max_length=9, **changes):
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


def test_greedy_is_the_argmax_of_a_full_forward_pass(params):
    prompts = make_prompts()
    rollout = sample(make_sampler(Greedy(), num_generations=1), params, prompts, KEY)
    logits = logits_of(params, prompts, rollout.completions)
    logits[..., FORBIDDEN] = -np.inf
    mask = np.asarray(rollout.completions.mask_BT)
    assert mask.sum() > 10
    np.testing.assert_array_equal(np.asarray(rollout.completions.token_BT)[mask], logits.argmax(-1)[mask])


def test_reported_logp_and_entropy_are_of_the_full_distribution(params):
    prompts = make_prompts()
    for logp_temperature in (1.0, 1.7):
        sampler = make_sampler(Temperature(1.3), logp_temperature=logp_temperature)
        rollout = sample(sampler, params, prompts, KEY)
        logp = jax.nn.log_softmax(logits_of(params, prompts, rollout.completions) / logp_temperature)
        chosen = np.take_along_axis(np.asarray(logp), np.asarray(rollout.completions.token_BT)[..., None], -1)[..., 0]
        mask = np.asarray(rollout.completions.mask_BT)
        np.testing.assert_allclose(rollout.logp_BT, np.where(mask, chosen, 0), atol=2e-5)
        entropy = -np.sum(np.exp(logp) * logp, -1)
        np.testing.assert_allclose(rollout.entropy_BT, np.where(mask, entropy, 0), atol=2e-5)


@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_logps_of_learner_and_sampler_agree(params, temperature):
    prompts = make_prompts()
    rollout = sample(make_sampler(num_generations=3, logp_temperature=temperature), params, prompts, KEY)
    learner = Learner(DEFINITION, optax.identity(), chunk_size=16, temperature=temperature)
    logp, entropy = compute_logps(learner, params, prompts, rollout.completions)
    np.testing.assert_allclose(logp, rollout.logp_BT, atol=2e-5)
    np.testing.assert_allclose(entropy, rollout.entropy_BT, atol=2e-5)


def test_a_sample_does_not_depend_on_the_rest_of_the_batch(params):
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


def test_forbidden_tokens_are_never_sampled(params):
    biased = jax.tree.map(lambda leaf: leaf, params)
    embedding = params["text"]["embed_tokens"]["embedding"]
    biased["text"]["embed_tokens"]["embedding"] = embedding.at[jnp.asarray(FORBIDDEN)].multiply(30.0)
    rollout = sample(make_sampler(num_generations=8), biased, make_prompts(), KEY)
    logits = logits_of(biased, make_prompts(), rollout.completions)
    assert np.isin(logits.argmax(-1), FORBIDDEN).any()  # they would have been sampled
    assert not np.isin(np.asarray(rollout.completions.token_BT), FORBIDDEN).any()


def test_the_mask_ends_with_the_first_eos_and_the_loop_stops_early(params):
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


def test_rows_without_eos_reach_the_length_limit(params):
    never = (VOCAB_SIZE - 1,)
    sampler = dataclasses.replace(make_sampler(), eos_token_ids=never, forbidden_token_ids=never)
    rollout = sample(sampler, params, make_prompts(), KEY)
    assert rollout.completions.mask_BT.all()
    assert not rollout.has_ended_B.any()
    assert CONFIG.vocab_size == VOCAB_SIZE


def test_prefill_does_not_depend_on_the_number_of_completions(params):
    programs = {
        prefill(make_sampler(num_generations=number)).lower(params, make_prompts()).as_text() for number in (1, 8)
    }
    assert len(programs) == 1


@pytest.mark.parametrize("slots", [0, 4])
def test_a_decode_step_copies_no_cache_and_no_weight(params, slots):
    """The only results of their shapes in the compiled loop are the caches of each layer, updated in place."""
    sampler = make_sampler(num_generations=4, max_length=64, slots=slots)
    synced, prefilled = sampler_params(sampler, params), prefill(sampler)(params, make_prompts())
    program = parse_hlo(loop.decode(sampler).lower(synced, prefilled, KEY).compile().as_text())
    rows, heads, head_dim = slots or 12, CONFIG.num_key_value_heads, CONFIG.head_dim
    large = {(rows, heads, 64, head_dim), (rows, heads, head_dim, 64)}
    large |= {leaf.shape for leaf in jax.tree.leaves(synced) if leaf.ndim == 2}
    computed = [
        instruction.name
        for instruction, _, times in program.executed_instructions()
        if times >= 64 and instruction.opcode not in ("get-tuple-element", "tuple", "bitcast", "parameter")
        for array in instruction.arrays
        if array.dims in large
    ]
    assert len(computed) == 2 * CONFIG.num_hidden_layers
    assert all("dynamic-update-slice" in name or "scatter" in name for name in computed)
