"""Samples G completions for each prompt, in three programs that can also be compiled one by one:

    prefill(sampler)    parameters, prompts -> Prefilled: vision tower, forward pass of the prompts, prefix cache
    weight_sync         parameters -> the sampler's parameters (a module of its own)
    decode(sampler)     the sampler's parameters, Prefilled, key -> Rollout: one loop over token positions

Random numbers are keyed by (seed, step, prompt, sample, position), folded into one key. So a sample does not depend on
the other rows of its batch, and a resumed run has no generator state to restore.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Key

from r1vl_jax.arrays import Completions, Params, PromptBatch, Rollout, bundle, check_shapes
from r1vl_jax.models.qwen2_vl.cache import PrefixCache, SuffixCache
from r1vl_jax.models.qwen2_vl.decode import Decoder
from r1vl_jax.sampling.continuous_batching import decode_with_slots
from r1vl_jax.sampling.sample_token import is_eos, row_keys, sample_token, uniform_noise
from r1vl_jax.sampling.sampler import (
    CACHE_SPEC,
    ROWS_SPEC,
    Sampler,
    any_unfinished,
    constrain_to_tensor,
    make_sharding,
    shard_map_rows,
)
from r1vl_jax.sampling.weight_sync import SyncedParams, sampler_params


@bundle
class Prefilled:
    """The state of P prompts after prefill, from which their completions are decoded.

    Attributes:
        hidden_PD: hidden states after the final norm, at the last token of each prompt.
        prefix: keys and values of the prompts.
        next_position_P, prompt_id_P: as in `PromptBatch`.
    """

    hidden_PD: Float[Array, "P D"]
    prefix: PrefixCache
    next_position_P: Int[Array, " P"]
    prompt_id_P: Int[Array, " P"]


@bundle
class DecodeState:
    """The carry of the decode loop.

    Attributes:
        step: tokens sampled so far, of every row.
        hidden_BD: hidden states from which the next token is sampled.
        is_running_B: False once a row has sampled an end-of-sequence token.
        token_BT, mask_BT, logp_BT, entropy_BT: output buffers, as in `Rollout`.
    """

    step: Int[Array, ""]
    hidden_BD: Float[Array, "B D"]
    is_running_B: Bool[Array, " B"]
    suffix: SuffixCache
    token_BT: Int[Array, "B T"]
    mask_BT: Bool[Array, "B T"]
    logp_BT: Float[Array, "B T"]
    entropy_BT: Float[Array, "B T"]


def sample(
    sampler: Sampler,
    params: Params,
    prompts: PromptBatch,
    key: Key[Array, ""],
    *,
    synced: SyncedParams | None = None,
) -> Rollout:
    """Samples `num_generations` completions for every prompt: prefill, weight sync if needed, decode.

    Args:
        sampler: the fixed settings.
        params: parameters of the policy, as the trainer holds them.
        prompts: P prompts, padded on the left.
        key: folded from seed and step by the caller; prompt, sample and position are folded in here.
        synced: returns the sampler's parameters when called, see `weight_sync.synced_params`, with which several calls
            share them; None syncs them for this call.

    Returns:
        A rollout of P * G rows; row p*G + g is sample g of prompt p.
    """
    prefilled = prefill(sampler)(params, prompts)
    # The sync is dispatched after the prefill, so that devices are busy while the host prepares it.
    return decode(sampler)(sampler_params(sampler, params) if synced is None else synced(), prefilled, key)


@functools.cache
def prefill(sampler: Sampler) -> jax.stages.Wrapped:
    """The program (parameters, prompts) -> Prefilled, which runs vision tower and prompts once, for all G samples.

    It is computed on the trainer's mesh, with the trainer's parameters; its results are on `prefix_cache_mesh`.
    """

    def prefill(params: Params, prompts: PromptBatch) -> Prefilled:
        check_shapes(prompts)
        model = sampler.definition.bind(params)
        hidden_PSD, prefix = model.prefill(prompts, model.image_features(prompts.vision))
        # Prompts are padded on the left, so the last column is the last token of each.
        return Prefilled(hidden_PSD[:, -1], prefix, prompts.next_position_P, prompts.prompt_id_P)

    rows, caches = (make_sharding(sampler.prefix_cache_mesh, spec) for spec in (ROWS_SPEC, CACHE_SPEC))
    return jax.jit(prefill, out_shardings=Prefilled(rows, PrefixCache(caches, caches, rows), rows, rows))


@functools.cache
def decode(sampler: Sampler) -> jax.stages.Wrapped:
    """The program (sampler's parameters, Prefilled, key, limit) -> Rollout: samples tokens on the sampler's mesh.

    Each shard of the rows has a decode loop of its own, which ends when its rows have; with tensor parallelism all
    loops end together. The limit, None or a number of tokens below `max_length`, ends them without a program of its
    own; slots do not take one.
    """

    def decode_shard(
        params: Params, key: Key[Array, ""], limit: Int[Array, ""] | None, prefilled: Prefilled
    ) -> Rollout:
        rollout = _decode(sampler, params, prefilled, key, limit)
        # All results of a shard have rows: its number of steps becomes an array with one.
        return dataclasses.replace(rollout, num_steps=rollout.num_steps[None])

    def decode(
        params: Params, prefilled: Prefilled, key: Key[Array, ""], limit: Int[Array, ""] | None = None
    ) -> Rollout:
        rollout = shard_map_rows(sampler, decode_shard, num_replicated=3)(params, key, limit, prefilled)
        return dataclasses.replace(rollout, num_steps=jnp.max(rollout.num_steps))

    rows, replicated = (make_sharding(sampler.definition.mesh, spec) for spec in (ROWS_SPEC, PartitionSpec()))
    return jax.jit(decode, out_shardings=Rollout(Completions(rows, rows), rows, rows, rows, replicated))


def _decode(
    sampler: Sampler, params: Params, prefilled: Prefilled, key: Key[Array, ""], limit: Int[Array, ""] | None
) -> Rollout:
    """Decodes the rows of a shard, in slots if there are fewer of them than rows, else all at one time."""
    decoder = Decoder(sampler.definition, params, is_tensor_parallel=sampler.is_tensor_parallel)
    row_key_B = row_keys(key, prefilled.prompt_id_P, sampler.num_generations)
    uniform_BT2 = uniform_noise(row_key_B, sampler.max_length)
    if 0 < sampler.slots < len(row_key_B) * sampler.num_shards:
        return decode_with_slots(
            sampler, decoder, prefilled.prefix, prefilled.hidden_PD, prefilled.next_position_P, uniform_BT2
        )
    final = decode_steps(sampler, decoder, prefilled, uniform_BT2, initial_state(sampler, prefilled), limit)
    return Rollout(
        completions=Completions(token_BT=final.token_BT, mask_BT=final.mask_BT),
        logp_BT=final.logp_BT,
        entropy_BT=final.entropy_BT,
        has_ended_B=~final.is_running_B,
        num_steps=final.step,
    )


def decode_steps(
    sampler: Sampler,
    decoder: Decoder,
    prefilled: Prefilled,
    uniform_BT2: Float[Array, "B T 2"],
    state: DecodeState,
    limit: Int[Array, ""] | None,
) -> DecodeState:
    """Decodes the rows of a shard until all have ended, or there are `limit` tokens.

    Args:
        uniform_BT2: of `uniform_noise`.
        state: of `initial_state` or of an earlier call.
        limit: None is `max_length`.
    """
    next_position_B = jnp.repeat(prefilled.next_position_P, sampler.num_generations)
    angles = decoder.rope_angles(next_position_B, sampler.max_length)

    def decode_step(state: DecodeState) -> DecodeState:
        token_B, logp_B, entropy_B = sample_token(sampler, decoder.head_DV, state.hidden_BD, uniform_BT2[:, state.step])
        hidden_BD, suffix = decoder(
            token_B,
            jax.tree.map(lambda angle_BT: jax.lax.dynamic_slice_in_dim(angle_BT, state.step, 1, axis=1), angles),
            prefix=prefilled.prefix,
            suffix=state.suffix,
            step=state.step,
        )
        # Rows that have ended keep decoding with the batch; their tokens are masked. The mask is that from before this
        # token, so an end-of-sequence token is part of the completion.
        return DecodeState(
            step=state.step + 1,
            hidden_BD=hidden_BD,
            is_running_B=state.is_running_B & ~is_eos(sampler, token_B),
            suffix=jax.tree.map(functools.partial(constrain_to_tensor, sampler), suffix),
            token_BT=state.token_BT.at[:, state.step].set(token_B),
            mask_BT=state.mask_BT.at[:, state.step].set(state.is_running_B),
            logp_BT=state.logp_BT.at[:, state.step].set(jnp.where(state.is_running_B, logp_B, 0.0)),
            entropy_BT=state.entropy_BT.at[:, state.step].set(jnp.where(state.is_running_B, entropy_B, 0.0)),
        )

    # A while loop and not a scan over `max_length`: it stops as soon as all rows have ended.
    def should_continue(state: DecodeState) -> Bool[Array, ""]:
        is_below = state.step < sampler.max_length if limit is None else state.step < limit
        return is_below & any_unfinished(sampler, state.is_running_B)

    return jax.lax.while_loop(should_continue, decode_step, state)


def initial_state(sampler: Sampler, prefilled: Prefilled) -> DecodeState:
    """The state of a shard before its first token."""
    # The first token is sampled from the prefill's hidden states, so the loop samples before it runs the decoder.
    hidden_BD = jnp.repeat(prefilled.hidden_PD, sampler.num_generations, axis=0)
    num_rows = hidden_BD.shape[0]
    shape = (num_rows, sampler.max_length)
    suffix = SuffixCache.empty(sampler.definition.config, num_rows, sampler.max_length, hidden_BD.dtype)
    return DecodeState(
        step=jnp.int32(0),
        hidden_BD=hidden_BD,
        is_running_B=jnp.ones(num_rows, bool),
        suffix=jax.tree.map(functools.partial(constrain_to_tensor, sampler), suffix),
        token_BT=jnp.zeros(shape, jnp.int32),
        mask_BT=jnp.zeros(shape, bool),
        logp_BT=jnp.zeros(shape, jnp.float32),
        entropy_BT=jnp.zeros(shape, jnp.float32),
    )
