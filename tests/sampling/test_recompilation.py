"""Images of any size and prompts of any length compile one program for each bucket of shapes."""

import jax
import numpy as np
import optax
from helpers.small import DEFINITION, EOS, IMAGE_TOKEN, make_params

from r1vl_jax.arrays import PromptBatch, SFTBatch
from r1vl_jax.data import prompts
from r1vl_jax.data.prompts import EncodedPrompt
from r1vl_jax.learner.learner import Learner
from r1vl_jax.learner.logprobs import compute_logps
from r1vl_jax.learner.steps import sft_step
from r1vl_jax.sampling.loop import decode, prefill, sample
from r1vl_jax.sampling.methods import Greedy
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.sampling.weight_sync import sampler_params

PROMPT_BUCKET, PATCH_BUCKET = 16, 64
MOST_TOKENS, MOST_SQUARES = 16, 4  # of text; 2x2 squares of patches along a side of an image


def random_prompt(rng: np.random.Generator) -> EncodedPrompt:
    """Text around an image of up to 8 x 8 patches."""
    height, width = 2 * rng.integers(1, MOST_SQUARES + 1, size=2)
    num_features, num_text = height * width // 4, rng.integers(2, MOST_TOKENS + 1)
    token_S = np.r_[8, np.full(num_features, IMAGE_TOKEN), rng.integers(8, 40, num_text - 1)].astype(np.int32)
    patches = rng.normal(size=(height * width, 1176)).astype(np.float32)
    return EncodedPrompt(token_S, (token_S == IMAGE_TOKEN).astype(np.int32), ((patches, (1, height, width)),))


def random_batch(rng: np.random.Generator) -> PromptBatch:
    encoded = [random_prompt(rng) for _ in range(2)]
    return prompts.batch(encoded, prompt_bucket=PROMPT_BUCKET, patch_bucket=PATCH_BUCKET)


def test_one_program_is_compiled_for_each_bucket():
    """Prefill, decode, log-probabilities and update; decode depends on the length of prompts alone."""
    rng, params = np.random.default_rng(0), make_params()
    sampler = Sampler(DEFINITION, Greedy(), 2, 11, (EOS,), ())
    learner = Learner(DEFINITION, optax.sgd(0.1), chunk_size=17)
    synced, state = sampler_params(sampler, params), learner.init(make_params())
    before = compute_logps._cache_size(), sft_step._cache_size()
    buckets, sizes = set(), set()
    for number in range(200):
        batch = random_batch(rng)
        buckets.add((batch.token_PS.shape[1], batch.vision.segment_ZM.shape[1]))
        sizes.add((batch.mask_PS.sum(), (batch.vision.segment_ZM > 0).sum()))
        rollout = sample(sampler, params, batch, jax.random.key(number), synced=lambda: synced)
        compute_logps(learner, params, batch, rollout.completions)
        state, _ = sft_step(learner, state, {}, SFTBatch(batch, rollout.completions))
        jax.block_until_ready(state)
    assert len(sizes) > 100
    compiled = (compute_logps._cache_size() - before[0], sft_step._cache_size() - before[1])
    assert (prefill(sampler)._cache_size(), *compiled) == (len(buckets),) * 3
    assert decode(sampler)._cache_size() == len({length for length, _ in buckets})
    most_tokens = MOST_TOKENS + MOST_SQUARES**2
    assert len(buckets) <= (most_tokens // PROMPT_BUCKET) * (2 * 4 * MOST_SQUARES**2 // PATCH_BUCKET)
