"""Completions drawn by fewer slots than there are rows: a slot whose completion has ended takes the next row.

Every device has its own slots and its own rows, which wait in their order. So slots work while rows wait, and what is
computed is near the tokens that are drawn, however long the longest completion is. Slots copy the keys and values of
their prompts when some of them take new rows, and not at every token.

Inside this module a row is counted within its device's part of the batch.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from r1vl_jax.arrays import Completions, Rollout, bundle
from r1vl_jax.models.qwen2_vl.cache import PrefixCache, SuffixCache
from r1vl_jax.models.qwen2_vl.decoder import Decoder
from r1vl_jax.sampling.drawing import draw, is_end
from r1vl_jax.sampling.sampler import CACHE, ROWS, Sampler, constrain
from r1vl_jax.sharding import num_batch_shards


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
        num_steps: tokens that every slot could have drawn so far.
        next_Z: rows of each device that slots have taken.
        row_W: what each slot is drawing, or drew last.
        is_running_W: whether it is not done with that row.
        step_W: tokens of that row so far.
        hidden_WD: what its next token is drawn from.
    """

    num_steps: Int[Array, ""]
    next_Z: Int[Array, " Z"]
    row_W: Int[Array, " W"]
    is_running_W: Bool[Array, " W"]
    step_W: Int[Array, " W"]
    hidden_WD: Float[Array, "W D"]
    suffix: SuffixCache
    rows: _Rows


def decode_from_queue(
    sampler: Sampler,
    decoder: Decoder,
    prefix: PrefixCache,
    hidden_PD: Float[Array, "P D"],
    next_position_P: Int[Array, " P"],
    uniform_BT2: Float[Array, "B T 2"],
) -> Rollout:
    """Draws the completions of all rows by `sampler.slots` slots; the same as with a slot for every row.

    Args:
        prefix, hidden_PD, next_position_P: as in `loop.Prefilled`.
        uniform_BT2: see `drawing.uniforms`.
    """
    num_shards = 1 if sampler.mesh is None else num_batch_shards(sampler.mesh)
    rows_of_shard = len(uniform_BT2) // num_shards
    max_steps = sampler.max_length * -(-len(uniform_BT2) // sampler.slots)  # when no completion ends early
    take, put = functools.partial(_take, num_shards=num_shards), functools.partial(_put, num_shards=num_shards)

    def of_prompts(array_P: Array, row_W: Int[Array, " W"]) -> Array:
        return take(array_P, row_W // sampler.num_generations)

    def refill(state: _State) -> _State:
        """Slots that are done take rows that wait, if there are any."""
        is_free_ZW = ~state.is_running_W.reshape(num_shards, -1)
        row_ZW = state.next_Z[:, None] + jnp.cumsum(is_free_ZW, axis=1) - 1
        takes_ZW = is_free_ZW & (row_ZW < rows_of_shard)
        takes_W, row_W = takes_ZW.reshape(-1), jnp.where(takes_ZW, row_ZW, 0).reshape(-1)
        row_W = jnp.where(takes_W, row_W, state.row_W)
        hidden_WD = jnp.where(takes_W[:, None], of_prompts(hidden_PD, row_W), state.hidden_WD)
        return _placed(
            sampler,
            dataclasses.replace(
                state,
                next_Z=state.next_Z + jnp.sum(takes_ZW, axis=1),
                row_W=row_W,
                is_running_W=state.is_running_W | takes_W,
                step_W=jnp.where(takes_W, 0, state.step_W),
                hidden_WD=hidden_WD,
            ),
        )

    def is_any_waiting(state: _State) -> Bool[Array, ""]:
        """Whether a slot is done and there is a row for it."""
        is_free_ZW = ~state.is_running_W.reshape(num_shards, -1)
        return jnp.any(jnp.any(is_free_ZW, axis=1) & (state.next_Z < rows_of_shard))

    def until_slots_are_free(state: _State) -> _State:
        prefix_of_slots = jax.tree.map(lambda cache: of_prompts(cache, state.row_W), prefix)
        rotation = decoder.rotation(of_prompts(next_position_P, state.row_W), sampler.max_length)
        uniform_WT2 = take(uniform_BT2, state.row_W)

        def advance(state: _State) -> _State:
            def at_step(array_WT: Float[Array, "W T *C"]) -> Float[Array, "W 1 *C"]:
                return jnp.take_along_axis(array_WT, state.step_W[:, None, None], axis=1)

            uniform_W2 = at_step(uniform_WT2)[:, 0]
            token_W, logp_W, entropy_W = draw(sampler, decoder.head_DV, state.hidden_WD, uniform_W2)
            has_ended_W = is_end(sampler, token_W)
            at = (jnp.where(state.is_running_W, state.row_W, rows_of_shard), state.step_W)
            drawn = state.rows
            rows = _Rows(
                token_BT=put(drawn.token_BT, at, token_W),
                mask_BT=put(drawn.mask_BT, at, jnp.ones_like(has_ended_W)),
                logp_BT=put(drawn.logp_BT, at, logp_W),
                entropy_BT=put(drawn.entropy_BT, at, entropy_W),
                has_ended_B=put(drawn.has_ended_B, at[:1], has_ended_W),
            )
            hidden_WD, suffix = decoder(
                token_W,
                jax.tree.map(at_step, rotation),
                prefix=prefix_of_slots,
                suffix=state.suffix,
                step=state.step_W,
            )
            state = dataclasses.replace(
                state,
                num_steps=state.num_steps + 1,
                is_running_W=state.is_running_W & ~has_ended_W & (state.step_W + 1 < sampler.max_length),
                step_W=jnp.minimum(state.step_W + 1, sampler.max_length - 1),
                hidden_WD=hidden_WD,
                suffix=suffix,
                rows=rows,
            )
            return _placed(sampler, state)

        def goes_on(state: _State) -> Bool[Array, ""]:
            # That the bound is told changes nothing but what can be read off the compiled program.
            return jnp.any(state.is_running_W) & ~is_any_waiting(state) & (state.num_steps < max_steps)

        return refill(jax.lax.while_loop(goes_on, advance, state))

    first = refill(_first_state(sampler, num_shards, len(uniform_BT2), hidden_PD))
    final = jax.lax.while_loop(lambda state: jnp.any(state.is_running_W), until_slots_are_free, first)
    rows = final.rows
    return Rollout(
        completions=Completions(rows.token_BT, rows.mask_BT),
        logp_BT=rows.logp_BT,
        entropy_BT=rows.entropy_BT,
        has_ended_B=rows.has_ended_B,
        num_steps=final.num_steps,
    )


def _first_state(sampler: Sampler, num_shards: int, num_rows: int, hidden_PD: Float[Array, "P D"]) -> _State:
    slots, shape = sampler.slots, (num_rows, sampler.max_length)
    return _State(
        num_steps=jnp.int32(0),
        next_Z=jnp.zeros(num_shards, jnp.int32),
        row_W=jnp.zeros(slots, jnp.int32),
        is_running_W=jnp.zeros(slots, bool),
        step_W=jnp.zeros(slots, jnp.int32),
        hidden_WD=jnp.zeros((slots, hidden_PD.shape[1]), hidden_PD.dtype),
        suffix=SuffixCache.empty(sampler.definition.config, slots, sampler.max_length, hidden_PD.dtype),
        rows=_Rows(
            token_BT=jnp.zeros(shape, jnp.int32),
            mask_BT=jnp.zeros(shape, bool),
            logp_BT=jnp.zeros(shape, jnp.float32),
            entropy_BT=jnp.zeros(shape, jnp.float32),
            has_ended_B=jnp.zeros(num_rows, bool),
        ),
    )


def _placed(sampler: Sampler, state: _State) -> _State:
    """Every device has its slots, and of their caches its heads."""
    suffix = jax.tree.map(lambda cache: constrain(sampler.mesh, cache, CACHE), state.suffix)
    rest = jax.tree.map(lambda leaf: constrain(sampler.mesh, leaf, ROWS), dataclasses.replace(state, suffix=None))
    return dataclasses.replace(rest, suffix=suffix)


def _take(array_B: Array, row_W: Int[Array, " W"], *, num_shards: int) -> Array:
    """Rows of each device for its slots."""
    taken = jax.vmap(lambda array, row: array[row])(_by_shard(array_B, num_shards), _by_shard(row_W, num_shards))
    return taken.reshape(-1, *array_B.shape[1:])


def _put(array_B: Array, at_W: tuple[Int[Array, " W"], ...], value_W: Array, *, num_shards: int) -> Array:
    """Writes a number of each slot into its device's rows, at (row, ...); rows past the last are left out."""
    put = jax.vmap(lambda array, at, value: array.at[at].set(value, mode="drop"))
    at_ZW = tuple(_by_shard(index_W, num_shards) for index_W in at_W)
    return put(_by_shard(array_B, num_shards), at_ZW, _by_shard(value_W, num_shards)).reshape(array_B.shape)


def _by_shard(array_B: Array, num_shards: int) -> Array:
    return array_B.reshape(num_shards, -1, *array_B.shape[1:])
