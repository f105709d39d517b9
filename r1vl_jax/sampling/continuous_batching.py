"""Continuous batching: rows wait in a queue for a fixed number of decoding slots.

A slot whose completion has ended takes the next row in order, so slots stay busy while rows wait, and few tokens are
computed in vain, however long the longest completion is. Memory for the suffix cache is that of the slots, not of all
rows.

    slot 0   | row 0 ........ | row 3 .... | row 5 ..........    |
    slot 1   | row 1 .. | row 2 ........ | row 4 ... | idle      |      time ->

The prefix caches of the slots' prompts are gathered when slots are refilled, not at every token: an outer loop refills
slots, an inner loop decodes until one is free. Each shard of a batch has slots and a queue of its own; this module sees
those of one shard.

Source: Yu et al., Orca: A Distributed Serving System for Transformer-Based Generative Models, OSDI 2022.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from r1vl_jax.arrays import Completions, Rollout, bundle
from r1vl_jax.models.qwen2_vl.cache import PrefixCache, SuffixCache
from r1vl_jax.models.qwen2_vl.decode import Decoder
from r1vl_jax.sampling.sample_token import is_eos, sample_token
from r1vl_jax.sampling.sampler import Sampler, any_unfinished, constrain_to_tensor


@bundle
class _OutputBuffers:
    """The results of all rows, as in `Rollout`."""

    token_BT: Int[Array, "B T"]
    mask_BT: Bool[Array, "B T"]
    logp_BT: Float[Array, "B T"]
    entropy_BT: Float[Array, "B T"]
    has_ended_B: Bool[Array, " B"]


@bundle
class _SlotState:
    """The carry of both loops: W slots, the queue, and the results so far.

    Attributes:
        num_steps: decode steps so far, of every slot of the shard.
        next_row: head of the queue: the first row that no slot has taken yet.
        row_W: the row that each slot decodes, or decoded last.
        is_running_W: whether the slot is still decoding that row.
        step_W: tokens of that row so far: the column of its next one.
        hidden_WD: hidden states from which its next token is sampled.
        suffix: caches of the slots' current rows.
    """

    num_steps: Int[Array, ""]
    next_row: Int[Array, ""]
    row_W: Int[Array, " W"]
    is_running_W: Bool[Array, " W"]
    step_W: Int[Array, " W"]
    hidden_WD: Float[Array, "W D"]
    suffix: SuffixCache
    buffers: _OutputBuffers


def decode_with_slots(
    sampler: Sampler,
    decoder: Decoder,
    prefix: PrefixCache,
    hidden_PD: Float[Array, "P D"],
    next_position_P: Int[Array, " P"],
    uniform_BT2: Float[Array, "B T 2"],
) -> Rollout:
    """Samples the completions of a shard's rows in its share of `sampler.slots`; the same as with a slot for every row.

    Args:
        prefix, hidden_PD, next_position_P: as in `loop.Prefilled`.
        uniform_BT2: random numbers from `sample_token.uniform_noise`.

    Raises:
        ValueError: the slots cannot be divided evenly among the shards.
    """
    if sampler.slots % sampler.num_shards:
        raise ValueError(
            f"slots={sampler.slots}: expected a multiple of {sampler.num_shards}, the number of shards of a batch"
        )
    num_rows, num_slots = len(uniform_BT2), sampler.slots // sampler.num_shards
    max_steps = sampler.max_length * -(-num_rows // num_slots)  # if no completion ends early

    def of_prompt(array_P: Array, row_W: Int[Array, " W"]) -> Array:
        return array_P[row_W // sampler.num_generations]

    def refill(state: _SlotState) -> _SlotState:
        """Free slots take the next rows of the queue, if there are any."""
        is_free_W = ~state.is_running_W
        # The i-th free slot takes the i-th waiting row.
        next_row_W = state.next_row + jnp.cumsum(is_free_W) - 1
        is_refilled_W = is_free_W & (next_row_W < num_rows)
        row_W = jnp.where(is_refilled_W, next_row_W, state.row_W)
        # The suffix cache is not cleared: columns at and after `step` are masked, and overwritten as the row grows.
        return dataclasses.replace(
            state,
            next_row=state.next_row + jnp.sum(is_refilled_W),
            row_W=row_W,
            is_running_W=state.is_running_W | is_refilled_W,
            step_W=jnp.where(is_refilled_W, 0, state.step_W),
            hidden_WD=jnp.where(is_refilled_W[:, None], of_prompt(hidden_PD, row_W), state.hidden_WD),
        )

    def decode_until_refill(state: _SlotState) -> _SlotState:
        """The body of the outer loop: decodes until a slot is free that a waiting row can take, then refills."""
        # What depends on the slots' rows is gathered here, outside the loop over tokens.
        slot_prefix = jax.tree.map(lambda cache: of_prompt(cache, state.row_W), prefix)
        angles = decoder.rope_angles(of_prompt(next_position_P, state.row_W), sampler.max_length)
        uniform_WT2 = uniform_BT2[state.row_W]

        def decode_step(state: _SlotState) -> _SlotState:
            def at_step(array_WT: Float[Array, "W T *C"]) -> Float[Array, "W 1 *C"]:
                return jnp.take_along_axis(array_WT, state.step_W[:, None, None], axis=1)

            uniform_W2 = at_step(uniform_WT2)[:, 0]
            token_W, logp_W, entropy_W = sample_token(sampler, decoder.head_DV, state.hidden_WD, uniform_W2)
            has_ended_W = is_eos(sampler, token_W)
            # An idle slot writes past the last row, which mode="drop" discards.
            row_W = jnp.where(state.is_running_W, state.row_W, num_rows)
            buffers = state.buffers
            buffers = _OutputBuffers(
                token_BT=buffers.token_BT.at[row_W, state.step_W].set(token_W, mode="drop"),
                mask_BT=buffers.mask_BT.at[row_W, state.step_W].set(True, mode="drop"),
                logp_BT=buffers.logp_BT.at[row_W, state.step_W].set(logp_W, mode="drop"),
                entropy_BT=buffers.entropy_BT.at[row_W, state.step_W].set(entropy_W, mode="drop"),
                has_ended_B=buffers.has_ended_B.at[row_W].set(has_ended_W, mode="drop"),
            )
            # Idle slots are decoded with the others, as shapes are static; nothing of them is kept.
            hidden_WD, suffix = decoder(
                token_W,
                jax.tree.map(at_step, angles),
                prefix=slot_prefix,
                suffix=state.suffix,
                step=state.step_W,
            )
            return dataclasses.replace(
                state,
                num_steps=state.num_steps + 1,
                is_running_W=state.is_running_W & ~has_ended_W & (state.step_W + 1 < sampler.max_length),
                step_W=jnp.minimum(state.step_W + 1, sampler.max_length - 1),  # idle slots stay inside the cache
                hidden_WD=hidden_WD,
                suffix=jax.tree.map(functools.partial(constrain_to_tensor, sampler), suffix),
                buffers=buffers,
            )

        def should_continue(state: _SlotState) -> Bool[Array, ""]:
            can_refill = any_unfinished(sampler, ~state.is_running_W & (state.next_row < num_rows))
            # The bound on the steps never applies before the other conditions. It is there for tools that read the trip
            # count of a loop from the compiled program (`aot.hlo`).
            return is_any_running(state) & ~can_refill & (state.num_steps < max_steps)

        return refill(jax.lax.while_loop(should_continue, decode_step, state))

    def is_any_running(state: _SlotState) -> Bool[Array, ""]:
        return any_unfinished(sampler, state.is_running_W)

    # When no slot is running, the queue is empty, too: free slots take waiting rows at once.
    initial = refill(_initial_state(sampler, num_slots, num_rows, hidden_PD))
    final = jax.lax.while_loop(is_any_running, decode_until_refill, initial)
    buffers = final.buffers
    return Rollout(
        completions=Completions(buffers.token_BT, buffers.mask_BT),
        logp_BT=buffers.logp_BT,
        entropy_BT=buffers.entropy_BT,
        has_ended_B=buffers.has_ended_B,
        num_steps=final.num_steps,
    )


def _initial_state(sampler: Sampler, num_slots: int, num_rows: int, hidden_PD: Float[Array, "P D"]) -> _SlotState:
    """All slots free and all rows waiting."""
    shape, dtype = (num_rows, sampler.max_length), hidden_PD.dtype
    suffix = SuffixCache.empty(sampler.definition.config, num_slots, sampler.max_length, dtype)
    return _SlotState(
        num_steps=jnp.int32(0),
        next_row=jnp.int32(0),
        row_W=jnp.zeros(num_slots, jnp.int32),
        is_running_W=jnp.zeros(num_slots, bool),
        step_W=jnp.zeros(num_slots, jnp.int32),
        hidden_WD=jnp.zeros((num_slots, hidden_PD.shape[1]), dtype),
        suffix=jax.tree.map(functools.partial(constrain_to_tensor, sampler), suffix),
        buffers=_OutputBuffers(
            token_BT=jnp.zeros(shape, jnp.int32),
            mask_BT=jnp.zeros(shape, bool),
            logp_BT=jnp.zeros(shape, jnp.float32),
            entropy_BT=jnp.zeros(shape, jnp.float32),
            has_ended_B=jnp.zeros(num_rows, bool),
        ),
    )
