"""Draws G completions for each prompt, by three programs, which can be compiled each by itself:

    prefill(sampler)    parameters, prompts -> Prefilled: vision tower, and the prompts' keys and values
    sync                parameters -> the sampler's copy of the decoder, group by group (a module of its own)
    decode(sampler)     copy, Prefilled, key -> Rollout: one loop over token positions

The key of a draw is folded from (seed, step, prompt, sample, position). So a sample does not depend on which rows stand
beside it, and a resumed run needs no generator state.
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
    """P prompts, read: what their completions go on from.

    Attributes:
        hidden_PD: hidden states behind the final norm, at the last token of each prompt.
        prefix: what decoding attends to.
        next_position_P, prompt_id_P: as in `PromptBatch`.
    """

    hidden_PD: Float[Array, "P D"]
    prefix: PrefixCache
    next_position_P: Int[Array, " P"]
    prompt_id_P: Int[Array, " P"]


@bundle
class _State:
    """The loop's state; `hidden_BD` is what the next token is drawn from."""

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
    copy: SyncedParams | None = None,
) -> Rollout:
    """Samples `num_generations` completions for every prompt: `prefill`, `sync` and `decode`, one after another.

    Args:
        sampler: the fixed settings.
        params: parameters of the policy.
        prompts: P prompts, padded on the left.
        key: folded from seed and step by the caller; prompt, sample and position are folded in here.
        copy: gives that of `sync`, where several calls share one, see `copied`; None makes one for this call.

    Returns:
        A rollout of P * G rows; row p*G + g is sample g of prompt p.
    """
    prefilled = prefill(sampler)(params, prompts)
    return decode(sampler)(sampler_params(sampler, params) if copy is None else copy(), prefilled, key)


@functools.cache
def prefill(sampler: Sampler) -> jax.stages.Wrapped:
    """The program (parameters, prompts) -> Prefilled: the vision tower runs and the prompts are read, once each.

    It computes on the trainer's mesh; what it returns lies on `sampler.prompts_mesh`.
    """

    def prefill(params: Params, prompts: PromptBatch) -> Prefilled:
        check_shapes(prompts)
        model = sampler.definition.bind(params)
        hidden_PSD, prefix = model.prefill(prompts, model.image_features(prompts.vision))
        return Prefilled(hidden_PSD[:, -1], prefix, prompts.next_position_P, prompts.prompt_id_P)

    rows, caches = (make_sharding(sampler.prompts_mesh, spec) for spec in (ROWS_SPEC, CACHE_SPEC))
    return jax.jit(prefill, out_shardings=Prefilled(rows, PrefixCache(caches, caches, rows), rows, rows))


@functools.cache
def decode(sampler: Sampler) -> jax.stages.Wrapped:
    """The program (copy, Prefilled, key) -> Rollout: completions are drawn, token by token, on the sampler's mesh.

    Every shard draws its own rows in a loop of its own, which ends with them; with `sampler.tensor` above 1, with those
    of all.
    """

    def of_shard(copy: Params, key: Key[Array, ""], prefilled: Prefilled) -> Rollout:
        rollout = _decode(sampler, copy, prefilled, key)
        return dataclasses.replace(rollout, num_steps=rollout.num_steps[None])

    def decode(copy: Params, prefilled: Prefilled, key: Key[Array, ""]) -> Rollout:
        rollout = shard_map_rows(sampler, of_shard, num_whole=2)(copy, key, prefilled)
        return dataclasses.replace(rollout, num_steps=jnp.max(rollout.num_steps))

    rows, whole = (make_sharding(sampler.definition.mesh, spec) for spec in (ROWS_SPEC, PartitionSpec()))
    return jax.jit(decode, out_shardings=Rollout(Completions(rows, rows), rows, rows, rows, whole))


def _decode(sampler: Sampler, copy: Params, prefilled: Prefilled, key: Key[Array, ""]) -> Rollout:
    decoder = Decoder(sampler.definition, copy, is_divided=sampler.is_tensor_parallel)
    row_key_B = row_keys(key, prefilled.prompt_id_P, sampler.num_generations)
    uniform_BT2 = uniform_noise(row_key_B, sampler.max_length)
    if 0 < sampler.slots < len(row_key_B) * sampler.num_shards:
        return decode_with_slots(
            sampler, decoder, prefilled.prefix, prefilled.hidden_PD, prefilled.next_position_P, uniform_BT2
        )
    next_position_B = jnp.repeat(prefilled.next_position_P, sampler.num_generations)
    rotation = decoder.rope_angles(next_position_B, sampler.max_length)

    def advance(state: _State) -> _State:
        token_B, logp_B, entropy_B = sample_token(sampler, decoder.head_DV, state.hidden_BD, uniform_BT2[:, state.step])
        hidden_BD, suffix = decoder(
            token_B,
            jax.tree.map(lambda part_BT: jax.lax.dynamic_slice_in_dim(part_BT, state.step, 1, axis=1), rotation),
            prefix=prefilled.prefix,
            suffix=state.suffix,
            step=state.step,
        )
        return _State(
            step=state.step + 1,
            hidden_BD=hidden_BD,
            is_running_B=state.is_running_B & ~is_eos(sampler, token_B),
            suffix=jax.tree.map(functools.partial(constrain_to_tensor, sampler), suffix),
            token_BT=state.token_BT.at[:, state.step].set(token_B),
            mask_BT=state.mask_BT.at[:, state.step].set(state.is_running_B),
            logp_BT=state.logp_BT.at[:, state.step].set(jnp.where(state.is_running_B, logp_B, 0.0)),
            entropy_BT=state.entropy_BT.at[:, state.step].set(jnp.where(state.is_running_B, entropy_B, 0.0)),
        )

    def is_unfinished(state: _State) -> Bool[Array, ""]:
        return (state.step < sampler.max_length) & any_unfinished(sampler, state.is_running_B)

    hidden_BD = jnp.repeat(prefilled.hidden_PD, sampler.num_generations, axis=0)
    final = jax.lax.while_loop(is_unfinished, advance, _first_state(sampler, hidden_BD))
    return Rollout(
        completions=Completions(token_BT=final.token_BT, mask_BT=final.mask_BT),
        logp_BT=final.logp_BT,
        entropy_BT=final.entropy_BT,
        has_ended_B=~final.is_running_B,
        num_steps=final.step,
    )


def _first_state(sampler: Sampler, hidden_BD: Float[Array, "B D"]) -> _State:
    num_rows = hidden_BD.shape[0]
    shape = (num_rows, sampler.max_length)
    suffix = SuffixCache.empty(sampler.definition.config, num_rows, sampler.max_length, hidden_BD.dtype)
    return _State(
        step=jnp.int32(0),
        hidden_BD=hidden_BD,
        is_running_B=jnp.ones(num_rows, bool),
        suffix=jax.tree.map(functools.partial(constrain_to_tensor, sampler), suffix),
        token_BT=jnp.zeros(shape, jnp.int32),
        mask_BT=jnp.zeros(shape, bool),
        logp_BT=jnp.zeros(shape, jnp.float32),
        entropy_BT=jnp.zeros(shape, jnp.float32),
    )
