"""Batches of prompts through the jitted sampler, in few shapes: rows, lengths and patches are padded to buckets."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from r1vl_jax.arrays import Params, PromptBatch
from r1vl_jax.chat.prefix_reuse import PrefixReuse
from r1vl_jax.data import prompts
from r1vl_jax.data.collate import TEXT
from r1vl_jax.data.images import PATCHES_PER_FEATURE
from r1vl_jax.data.prompts import EncodedPrompt
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.sampling.chunked_prefill import chunked_prefill
from r1vl_jax.sampling.loop import decode
from r1vl_jax.sampling.methods import Greedy, Method, from_settings
from r1vl_jax.sampling.sampler import Sampler
from r1vl_jax.sampling.streaming import advance, start

# Lengths of arrays: of prompts, whose padding is not computed (`models.qwen2_vl.chunked`), and of answers.
_LEAST_PROMPT, _LEAST_ANSWER, _GROWTH = 512, 128, 4
_STREAMED_TOKENS = 4  # of a piece: each piece costs a call
_FILLER = EncodedPrompt(np.zeros(1, np.int32), np.full(1, TEXT, np.int32), ())  # a row that nobody reads


@dataclass(frozen=True)
class Completion:
    """What was sampled for a prompt.

    Attributes:
        token_ids: with the end token, if there is one.
        has_ended: False if it was cut at the most new tokens.
    """

    token_ids: list[int]
    has_ended: bool


@dataclass(frozen=True)
class Settings:
    """How answers are sampled.

    Attributes:
        max_new_tokens: of an answer, the end token included.
        temperature: 0 takes the likeliest token each time.
        n: answers to each prompt.
        top_k, top_p: sample from the likeliest tokens only; 0 and 1 from all.
        seed: of the random numbers; the same seed and prompts give the same answers.
    """

    max_new_tokens: int = 512
    temperature: float = 0.0
    n: int = 1
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self):
        is_valid = {
            "max_new_tokens": ("an integer of at least 1", _is_count(self.max_new_tokens, 1)),
            "temperature": (
                "a number of at least 0",
                _is_number(self.temperature) and 0 <= self.temperature < math.inf,
            ),
            "n": ("an integer of at least 1", _is_count(self.n, 1)),
            "top_k": ("an integer of at least 0", _is_count(self.top_k, 0)),
            "top_p": ("a number above 0 and at most 1", _is_number(self.top_p) and 0 < self.top_p <= 1),
            "seed": ("an integer from 0 to 2**63 - 1", _is_count(self.seed, 0) and self.seed < 2**63),
        }
        faults = [
            f"{name}: expected {what}, got {getattr(self, name)!r}" for name, (what, ok) in is_valid.items() if not ok
        ]
        if self.temperature == 0 and self.n != 1:
            faults.append(f"n={self.n}: at temperature 0 all answers to a prompt are the same; set a temperature")
        if faults:
            raise ValueError("\n".join(faults))

    @property
    def method(self) -> Method:
        if self.temperature == 0:
            return Greedy()
        return from_settings(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, min_p=0.0)


def make_sampler(definition: Definition, settings: Settings, eos_token_ids: tuple[int, ...]) -> Sampler:
    """The sampler of a call; numbers of tokens and of answers are those of their buckets."""
    return Sampler(
        definition=definition,
        method=settings.method,
        num_generations=bucket(settings.n),
        max_length=bucket(settings.max_new_tokens, _LEAST_ANSWER, _GROWTH),
        eos_token_ids=eos_token_ids,
        forbidden_token_ids=(),  # as in transformers' `generate`
        tensor=1 if definition.mesh is None else definition.mesh.shape["tensor"],
    )


def generate(
    sampler: Sampler,
    params: Params,
    decoder_params: Params,
    encoded: Sequence[EncodedPrompt],
    settings: Settings,
    reuse: PrefixReuse | None = None,
) -> list[list[Completion]]:
    """`settings.n` completions of each prompt, all prompts in one batch.

    A completion depends on the seed, the prompt's place and its own number, not on how many there are.

    Args:
        sampler: from `make_sampler`.
        decoder_params: of the sampler, from `weight_sync.sampler_params`.
        reuse: what earlier calls have read. Prompts that do not fit, and those of several shards, are read anew.
    """
    if reuse is not None and sampler.num_shards == 1 and reuse.fits(encoded):
        prefilled = reuse.prefill(_for_prefill(sampler), params, encoded, _batch(encoded, 1, reuse.width))
    else:
        prefilled = chunked_prefill(_for_prefill(sampler))(params, _batch(encoded, sampler.num_shards))
    limit = jnp.int32(settings.max_new_tokens)
    rollout = decode(sampler)(decoder_params, prefilled, jax.random.key(settings.seed), limit)
    arrays = rollout.completions.token_BT, rollout.completions.mask_BT, rollout.has_ended_B
    rows = [
        Completion(token_T[mask_T].tolist(), bool(has_ended))
        for token_T, mask_T, has_ended in zip(*map(np.asarray, arrays), strict=True)
    ]
    starts = range(0, len(encoded) * sampler.num_generations, sampler.num_generations)
    return [rows[start : start + settings.n] for start in starts]


def stream(
    sampler: Sampler, params: Params, decoder_params: Params, prompt: EncodedPrompt, settings: Settings
) -> Iterator[Completion]:
    """The completion of one prompt as it grows, a few tokens at a time; the last one is that of `generate`."""
    prefilled = chunked_prefill(_for_prefill(sampler))(params, _batch([prompt], sampler.num_shards))
    key, state, num_tokens = jax.random.key(settings.seed), start(sampler)(prefilled), 0
    while num_tokens < settings.max_new_tokens:
        num_tokens = min(num_tokens + _STREAMED_TOKENS, settings.max_new_tokens)
        state = advance(sampler)(decoder_params, key, jnp.int32(num_tokens), prefilled, state)
        has_ended = not state.is_running_B[0]
        yield Completion(np.asarray(state.token_BT[0])[np.asarray(state.mask_BT[0])].tolist(), has_ended)
        if has_ended:
            return


def _for_prefill(sampler: Sampler) -> Sampler:
    """The same sampler for all settings of sampling, so that they share a program."""
    return make_sampler(sampler.definition, Settings(), ())


def _batch(encoded: Sequence[EncodedPrompt], num_shards: int, width: int = 0) -> PromptBatch:
    """The prompts and filler rows; as wide as the longest, or `width`."""
    num_rows = num_shards * bucket(-(-len(encoded) // num_shards))
    width = width or bucket(max(len(prompt.token_S) for prompt in encoded), _LEAST_PROMPT, _GROWTH)
    num_patches = sum(len(patches) for prompt in encoded for patches, _ in (*prompt.images, *prompt.videos))
    return prompts.batch(
        [*encoded, *[_FILLER] * (num_rows - len(encoded))],
        prompt_bucket=width,
        # Every prompt has a token for each feature, so that one prompt has no more patches than this.
        patch_bucket=bucket(num_patches, width * PATCHES_PER_FEATURE),
    )


def bucket(size: int, least: int = 1, growth: int = 2) -> int:
    """The smallest power of `growth` times `least` that is not below a size."""
    while least < size:
        least *= growth
    return least


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value >= least)
