"""Prefill for prompts of any size in few programs: as `loop.prefill`, computed a chunk at a time."""

import functools

import jax

from r1vl_jax.arrays import Params, PromptBatch, check_shapes
from r1vl_jax.models.qwen2_vl import chunked
from r1vl_jax.models.qwen2_vl.cache import PrefixCache
from r1vl_jax.sampling.loop import Prefilled
from r1vl_jax.sampling.sampler import CACHE_SPEC, ROWS_SPEC, Sampler, make_sharding


@functools.cache
def chunked_prefill(sampler: Sampler) -> jax.stages.Wrapped:
    """The program (parameters, prompts) -> Prefilled; of a sampler, only definition and meshes matter.

    Prompts and patches are padded to multiples of `chunked`'s chunks, and patches are packed in one row.
    """

    def chunked_prefill(params: Params, prompts: PromptBatch) -> Prefilled:
        check_shapes(prompts)
        model = sampler.definition.bind(params)
        hidden_PD, prefix = chunked.prefill(model, prompts, chunked.image_features(model, prompts.vision))
        return Prefilled(hidden_PD, prefix, prompts.next_position_P, prompts.prompt_id_P)

    rows, caches = (make_sharding(sampler.prefix_cache_mesh, spec) for spec in (ROWS_SPEC, CACHE_SPEC))
    return jax.jit(chunked_prefill, out_shardings=Prefilled(rows, PrefixCache(caches, caches, rows), rows, rows))
