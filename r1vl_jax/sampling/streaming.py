"""Decoding in parts, so that the host sees tokens while more are sampled: `start`, then `advance` again and again.

The tokens are those of `loop.decode` with the same key.
"""

import dataclasses
import functools

import jax
from jaxtyping import Array, Int, Key

from r1vl_jax.arrays import Params
from r1vl_jax.models.qwen2_vl.decode import Decoder
from r1vl_jax.sampling.loop import DecodeState, Prefilled, decode_steps, initial_state
from r1vl_jax.sampling.sample_token import row_keys, uniform_noise
from r1vl_jax.sampling.sampler import Sampler, shard_map_rows


@functools.cache
def start(sampler: Sampler) -> jax.stages.Wrapped:
    """The program Prefilled -> state, before the first token."""

    def start_shard(prefilled: Prefilled) -> DecodeState:
        return _with_rows(initial_state(sampler, prefilled))

    return jax.jit(shard_map_rows(sampler, start_shard, num_replicated=0))


@functools.cache
def advance(sampler: Sampler) -> jax.stages.Wrapped:
    """The program (sampler's parameters, key, stop, Prefilled, state) -> state, with at most `stop` tokens a row.

    The state is donated: its key/value cache is updated in place. Slots are not used.
    """

    def advance_shard(
        params: Params, key: Key[Array, ""], stop: Int[Array, ""], rows: tuple[Prefilled, DecodeState]
    ) -> DecodeState:
        prefilled, state = rows
        decoder = Decoder(sampler.definition, params, is_tensor_parallel=sampler.is_tensor_parallel)
        row_key_B = row_keys(key, prefilled.prompt_id_P, sampler.num_generations)
        uniform_BT2 = uniform_noise(row_key_B, sampler.max_length)
        state = dataclasses.replace(state, step=state.step[0])
        return _with_rows(decode_steps(sampler, decoder, prefilled, uniform_BT2, state, stop))

    def advance(params: Params, key: Key[Array, ""], stop: Int[Array, ""], prefilled: Prefilled, state: DecodeState):
        return shard_map_rows(sampler, advance_shard, num_replicated=3)(params, key, stop, (prefilled, state))

    return jax.jit(advance, donate_argnums=4)


def _with_rows(state: DecodeState) -> DecodeState:
    """All results of a shard have rows: its number of steps becomes an array with one."""
    return dataclasses.replace(state, step=state.step[None])
