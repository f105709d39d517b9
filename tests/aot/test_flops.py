"""FLOPs by formula against XLA's cost analysis, on a model of one layer, whose loops run once."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
import pytest
from helpers.small import CONFIG, make_prompts

from r1vl_jax.aot.flops import FlopCounter
from r1vl_jax.arrays import Completions, PackedVision, TrainBatch, TrainRows
from r1vl_jax.config import Model
from r1vl_jax.learner.learner import Learner
from r1vl_jax.learner.logprobs import compute_logps
from r1vl_jax.learner.steps import step_grpo_step
from r1vl_jax.models.presets import preset
from r1vl_jax.models.qwen2_vl.config import VisionConfig
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.models.trainable import partition
from r1vl_jax.sampling.loop import decode, prefill
from r1vl_jax.sampling.methods import Greedy
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.sampling.weight_sync import sampler_params

PROMPT, COMPLETION, PATCHES = 96, 160, 256
WIDE = dataclasses.replace(
    CONFIG,
    vocab_size=512,
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    mrope_section=(16, 24, 24),
    vision=VisionConfig(depth=1, embed_dim=128, num_heads=1),
)


FULL = Model()


def counter(remat: str = "none", model: Model = FULL) -> FlopCounter:
    definition = Definition(WIDE, remat=remat)
    return FlopCounter(definition, model, prompt_length=PROMPT, completion_length=COMPLETION, patches=PATCHES)


def batch(num_generations: int = 2):
    """One prompt with one image."""
    prompts = make_prompts(1, length=PROMPT)
    vision = PackedVision(jnp.zeros((1, PATCHES, 1176)), jnp.ones((1, PATCHES), int), jnp.zeros((1, PATCHES, 2), int))
    shape = (num_generations, COMPLETION)
    number = jnp.zeros(shape)
    completions = Completions(jnp.zeros(shape, jnp.int32), jnp.ones(shape, bool))
    return dataclasses.replace(prompts, vision=vision), completions, TrainRows(completions, number, number, number)


def masked_pair_flops(num_generations: int = 2) -> float:
    """FLOPs of plain attention on (query, key) pairs that the causal mask hides, in one forward pass."""
    pairs = PROMPT * (PROMPT - 1) / 2 + num_generations * COMPLETION * (COMPLETION - 1) / 2
    return 4 * pairs * WIDE.hidden_size


def learner(definition: Definition) -> Learner:
    return Learner(definition, optax.sgd(0.1), chunk_size=1024)


def xla_count(lowered) -> float:
    """XLA's count before optimization, so nothing is compiled; it includes elementwise operations."""
    return lowered.cost_analysis()["flops"]


def test_logps():
    count, (prompts, completions, _) = counter(), batch()
    params = count.definition.abstract_params()
    counted = xla_count(compute_logps.lower(learner(count.definition), params, prompts, completions))
    assert count.logps(1, 2, num_sequences=1).model + masked_pair_flops() == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize("remat", ["none", "block"])
@pytest.mark.parametrize("model", [FULL, Model(freeze_vision_tower=True, freeze_language_model=True)])
def test_an_update(remat, model):
    count, (prompts, _, rows) = counter(remat, model), batch()
    trained, frozen = partition(count.definition.abstract_params(), model)
    state = jax.eval_shape(learner(count.definition).init, trained)
    counted = xla_count(step_grpo_step.lower(learner(count.definition), state, frozen, TrainBatch(prompts, rows)))
    attention = {"none": 3.0, "block": 4.0}[remat]  # forward, twice backward, and once more with remat
    assert count.update(1, 2, num_sequences=1).total + attention * masked_pair_flops() == pytest.approx(
        counted, rel=0.08
    )


def test_prefill_and_decode():
    """XLA counts one step of the decoding loop, which attends to the whole cache."""
    count, (prompts, _, _) = counter(), batch()
    sampler, params = Sampler(count.definition, Greedy(), 2, COMPLETION, (1,), (2,)), count.definition.abstract_params()
    counted = xla_count(prefill(sampler).lower(params, prompts))
    masked = 4 * PROMPT * (PROMPT - 1) / 2 * WIDE.hidden_size
    assert count.prefill(1).model + masked == pytest.approx(counted, rel=0.05)

    prefilled = jax.eval_shape(prefill(sampler), params, prompts)
    synced = jax.eval_shape(lambda params: sampler_params(sampler, params), params)
    counted = xla_count(decode(sampler).lower(synced, prefilled, jax.random.key(0)))
    one_step = dataclasses.replace(count, prompt_length=PROMPT + COMPLETION - 1)
    assert one_step.decode(2, length=1).model == pytest.approx(counted, rel=0.08)


def test_a_repeated_prompt_counts_as_recomputation():
    count = counter()
    once, twice = (count.update(1, 2, num_sequences=number) for number in (1, 2))
    one_prompt = sum(count._text(PROMPT, PROMPT * (PROMPT + 1) / 2))
    assert twice.model == once.model
    assert twice.recompute - once.recompute == pytest.approx(3 * one_prompt + attention_recompute(count), rel=1e-6)


def attention_recompute(count: FlopCounter) -> float:
    """q k^T of one prompt, which the backward pass of attention recomputes without remat."""
    return 0.5 * count._text(0, PROMPT * (PROMPT + 1) / 2)[1]


@pytest.mark.parametrize("remat", ["none", "block"])
def test_a_second_backward_pass_of_the_vision_tower_counts_as_recomputation(remat):
    once = counter(remat).update(1, 2, num_sequences=1)
    twice = dataclasses.replace(counter(remat), num_vision_backwards=2).update(1, 2, num_sequences=1)
    frozen = counter(remat, Model(freeze_vision_tower=True, freeze_merger=True)).update(1, 2, num_sequences=1)
    assert twice.model == once.model
    assert twice.total - once.total == pytest.approx(once.total - frozen.total, rel=1e-6)


def test_windowed_attention_of_the_vision_tower():
    """All of 2.5-7b's blocks but 4 attend within windows of 8 x 8 patches."""
    windowed = Definition(preset("2.5-7b"))
    count = FlopCounter(windowed, FULL, prompt_length=1, completion_length=1, patches=2040)
    _, attention, _ = count._vision(1)
    assert attention == 4 * 1280 * (4 * 2040**2 + 28 * 2040 * 64)


def test_a_7b_update_is_near_six_flops_per_parameter_and_token():
    count = FlopCounter(Definition(preset("7b")), FULL, prompt_length=1024, completion_length=1024, patches=2040)
    per_token = count.update(1, 1, num_sequences=1).model / 2048 / 6
    assert 6.5e9 < per_token < 8.5e9
