"""Prefill for prompts of any size in few programs: as `loop.prefill`, computed a chunk at a time."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from r1vl_jax.arrays import Array, Params, PromptBatch, bundle, check_shapes
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


@bundle
class Places:
    """Where prompts are found in a pool of rows, and where they go.

    Attributes:
        source_P: the row that each prompt begins like; any row if `first_column` is before the prompt.
        shift_P: columns by which that row is moved to the right, around the end, to stand where the prompt stands.
        target_P: the row that receives the prompt.
        first_column: columns before it are known of all prompts.
    """

    source_P: Int[Array, " P"]
    shift_P: Int[Array, " P"]
    target_P: Int[Array, " P"]
    first_column: Int[Array, ""]


@functools.cache
def continued_prefill(sampler: Sampler) -> jax.stages.Wrapped:
    """The program that prefills prompts from where they differ from rows of a pool, and puts them into it.

    (parameters, prompts, given_FD, pool, places: Places) -> Prefilled, the pool, which is donated, and the features
    [M, D] of the prompts' packed pictures.

    Args of the program:
        prompts: as wide as the pool; feature indices from M on are rows of `given_FD`.
        given_FD: features of pictures that need no tower.
    """

    def continued_prefill(
        params: Params, prompts: PromptBatch, given_FD: Float[Array, "F D"], pool: PrefixCache, places: Places
    ) -> tuple[Prefilled, PrefixCache, Float[Array, "M D"]]:
        check_shapes(prompts)
        model = sampler.definition.bind(params)
        feature_MD = chunked.image_features(model, prompts.vision)
        shift = jax.vmap(functools.partial(jnp.roll, axis=-1)), jax.vmap(functools.partial(jnp.roll, axis=-2))
        known = PrefixCache(
            [shift[0](key[places.source_P], places.shift_P) for key in pool.key_PKHS],
            [shift[1](value[places.source_P], places.shift_P) for value in pool.value_PKSH],
            prompts.mask_PS,
        )
        features = jnp.concatenate([feature_MD, given_FD.astype(feature_MD.dtype)])
        hidden_PD, prefix = chunked.prefill(model, prompts, features, known, places.first_column)
        pool = PrefixCache(
            [old.at[places.target_P].set(new) for old, new in zip(pool.key_PKHS, prefix.key_PKHS, strict=True)],
            [old.at[places.target_P].set(new) for old, new in zip(pool.value_PKSH, prefix.value_PKSH, strict=True)],
            pool.mask_PS,
        )
        prefilled = Prefilled(hidden_PD, prefix, prompts.next_position_P, prompts.prompt_id_P)
        return prefilled, pool, feature_MD

    return jax.jit(continued_prefill, donate_argnums=3)


def empty_pool(sampler: Sampler, num_rows: int, width: int) -> PrefixCache:
    """A pool of rows for prompts of at most `width` tokens."""
    config, dtype = sampler.definition.config, sampler.definition.dtype
    shape, layers = (num_rows, config.num_key_value_heads), range(config.num_hidden_layers)
    return PrefixCache(
        [jnp.zeros((*shape, config.head_dim, width), dtype) for _ in layers],
        [jnp.zeros((*shape, width, config.head_dim), dtype) for _ in layers],
        jnp.zeros((num_rows, width), bool),
    )
