"""Completions drawn by fewer slots than there are rows: a slot whose completion has ended takes the next row.

Rows wait in their order. So slots work while rows wait, and what is computed is near the tokens that are drawn, however
long the longest completion is. Slots copy the keys and values of their prompts when some of them take new rows, and not
at every token.

Every shard of a batch has its own slots, rows and queue: all here are those of one shard.
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
class _Rows:
    """What has been drawn of all rows."""

    token_BT: Int[Array, "B T"]
    mask_BT: Bool[Array, "B T"]
    logp_BT: Float[Array, "B T"]
    entropy_BT: Float[Array, "B T"]
    has_ended_B: Bool[Array, " B"]


@bundle
class _State:
    """W slots, and what they have drawn.

    Attributes:
        num_steps: tokens that every slot of the shard could have drawn so far.
        next_row: how many rows slots have taken.
        row_W: what each slot is drawing, or drew last.
        is_running_W: whether it is not done with that row.
        step_W: tokens of that row so far.
        hidden_WD: what its next token is drawn from.
    """

    num_steps: Int[Array, ""]
    next_row: Int[Array, ""]
    row_W: Int[Array, " W"]
    is_running_W: Bool[Array, " W"]
    step_W: Int[Array, " W"]
    hidden_WD: Float[Array, "W D"]
    suffix: SuffixCache
    rows: _Rows


def decode_with_slots(
    sampler: Sampler,
    decoder: Decoder,
    prefix: PrefixCache,
    hidden_PD: Float[Array, "P D"],
    next_position_P: Int[Array, " P"],
    uniform_BT2: Float[Array, "B T 2"],
) -> Rollout:
    """Draws the completions of a shard's rows by its part of `sampler.slots`; the same as with a slot for every row.

    Args:
        prefix, hidden_PD, next_position_P: as in `loop.Prefilled`.
        uniform_BT2: see `drawing.uniforms`.

    Raises:
        ValueError: the shards cannot have equally many slots.
    """
    if sampler.slots % sampler.num_shards:
        raise ValueError(
            f"slots={sampler.slots}: expected a multiple of {sampler.num_shards}, into so many parts a batch is divided"
        )
    num_rows, num_slots = len(uniform_BT2), sampler.slots // sampler.num_shards
    max_steps = sampler.max_length * -(-num_rows // num_slots)  # when no completion ends early

    def of_prompts(array_P: Array, row_W: Int[Array, " W"]) -> Array:
        return array_P[row_W // sampler.num_generations]

    def refill(state: _State) -> _State:
        """Slots that are done take rows that wait, if there are any."""
        is_free_W = ~state.is_running_W
        next_row_W = state.next_row + jnp.cumsum(is_free_W) - 1
        takes_W = is_free_W & (next_row_W < num_rows)
        row_W = jnp.where(takes_W, next_row_W, state.row_W)
        return dataclasses.replace(
            state,
            next_row=state.next_row + jnp.sum(takes_W),
            row_W=row_W,
            is_running_W=state.is_running_W | takes_W,
            step_W=jnp.where(takes_W, 0, state.step_W),
            hidden_WD=jnp.where(takes_W[:, None], of_prompts(hidden_PD, row_W), state.hidden_WD),
        )

    def until_slots_are_free(state: _State) -> _State:
        prefix_of_slots = jax.tree.map(lambda cache: of_prompts(cache, state.row_W), prefix)
        rotation = decoder.rope_angles(of_prompts(next_position_P, state.row_W), sampler.max_length)
        uniform_WT2 = uniform_BT2[state.row_W]

        def advance(state: _State) -> _State:
            def at_step(array_WT: Float[Array, "W T *C"]) -> Float[Array, "W 1 *C"]:
                return jnp.take_along_axis(array_WT, state.step_W[:, None, None], axis=1)

            uniform_W2 = at_step(uniform_WT2)[:, 0]
            token_W, logp_W, entropy_W = sample_token(sampler, decoder.head_DV, state.hidden_WD, uniform_W2)
            has_ended_W = is_eos(sampler, token_W)
            row_W = jnp.where(state.is_running_W, state.row_W, num_rows)  # which is past the last, and left out
            drawn = state.rows
            rows = _Rows(
                token_BT=drawn.token_BT.at[row_W, state.step_W].set(token_W, mode="drop"),
                mask_BT=drawn.mask_BT.at[row_W, state.step_W].set(True, mode="drop"),
                logp_BT=drawn.logp_BT.at[row_W, state.step_W].set(logp_W, mode="drop"),
                entropy_BT=drawn.entropy_BT.at[row_W, state.step_W].set(entropy_W, mode="drop"),
                has_ended_B=drawn.has_ended_B.at[row_W].set(has_ended_W, mode="drop"),
            )
            hidden_WD, suffix = decoder(
                token_W,
                jax.tree.map(at_step, rotation),
                prefix=prefix_of_slots,
                suffix=state.suffix,
                step=state.step_W,
            )
            return dataclasses.replace(
                state,
                num_steps=state.num_steps + 1,
                is_running_W=state.is_running_W & ~has_ended_W & (state.step_W + 1 < sampler.max_length),
                step_W=jnp.minimum(state.step_W + 1, sampler.max_length - 1),
                hidden_WD=hidden_WD,
                suffix=jax.tree.map(functools.partial(constrain_to_tensor, sampler), suffix),
                rows=rows,
            )

        def goes_on(state: _State) -> Bool[Array, ""]:
            # That the bound is told changes nothing but what can be read off the compiled program.
            is_any_awaited = any_unfinished(sampler, ~state.is_running_W & (state.next_row < num_rows))
            return is_any_running(state) & ~is_any_awaited & (state.num_steps < max_steps)

        return refill(jax.lax.while_loop(goes_on, advance, state))

    def is_any_running(state: _State) -> Bool[Array, ""]:
        return any_unfinished(sampler, state.is_running_W)

    first = refill(_first_state(sampler, num_slots, num_rows, hidden_PD))
    final = jax.lax.while_loop(is_any_running, until_slots_are_free, first)
    rows = final.rows
    return Rollout(
        completions=Completions(rows.token_BT, rows.mask_BT),
        logp_BT=rows.logp_BT,
        entropy_BT=rows.entropy_BT,
        has_ended_B=rows.has_ended_B,
        num_steps=final.num_steps,
    )


def _first_state(sampler: Sampler, num_slots: int, num_rows: int, hidden_PD: Float[Array, "P D"]) -> _State:
    shape, dtype = (num_rows, sampler.max_length), hidden_PD.dtype
    suffix = SuffixCache.empty(sampler.definition.config, num_slots, sampler.max_length, dtype)
    return _State(
        num_steps=jnp.int32(0),
        next_row=jnp.int32(0),
        row_W=jnp.zeros(num_slots, jnp.int32),
        is_running_W=jnp.zeros(num_slots, bool),
        step_W=jnp.zeros(num_slots, jnp.int32),
        hidden_WD=jnp.zeros((num_slots, hidden_PD.shape[1]), dtype),
        suffix=jax.tree.map(functools.partial(constrain_to_tensor, sampler), suffix),
        rows=_Rows(
            token_BT=jnp.zeros(shape, jnp.int32),
            mask_BT=jnp.zeros(shape, bool),
            logp_BT=jnp.zeros(shape, jnp.float32),
            entropy_BT=jnp.zeros(shape, jnp.float32),
            has_ended_B=jnp.zeros(num_rows, bool),
        ),
    )
