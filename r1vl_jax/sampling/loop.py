"""Draws G completions for each prompt: one prefill per prompt, then one jitted loop over token positions.

The key of a draw is folded from (seed, step, prompt, sample, position). So a sample does not depend on which rows stand
beside it, and a resumed run needs no generator state.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from r1vl_jax.arrays import Completions, PromptBatch, Rollout, bundle, check_shapes
from r1vl_jax.models.qwen2_vl.cache import SuffixCache
from r1vl_jax.models.qwen2_vl.model import Definition, Params
from r1vl_jax.sampling.methods import Method


@dataclasses.dataclass(frozen=True)
class Sampler:
    """What stays fixed over a run; a static argument of the jitted loop.

    Attributes:
        num_generations: samples G per prompt.
        max_length: tokens of a completion at most, the end-of-sequence token included.
        eos_token_ids: any of them ends a completion.
        forbidden_token_ids: never drawn: vision tokens, which would need an image, and ids without a token.
        temperature_in_report: divides the logits before log-probability and entropy are taken.
    """

    definition: Definition
    method: Method
    num_generations: int
    max_length: int
    eos_token_ids: tuple[int, ...]
    forbidden_token_ids: tuple[int, ...]
    temperature_in_report: float = 1.0


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


@partial(jax.jit, static_argnums=0)
def sample(sampler: Sampler, params: Params, prompts: PromptBatch, key: Key[Array, ""]) -> Rollout:
    """Samples `num_generations` completions for every prompt.

    Args:
        sampler: the fixed settings.
        params: parameters of the policy.
        prompts: P prompts, padded on the left.
        key: folded from seed and step by the caller; prompt, sample and position are folded in here.

    Returns:
        A rollout of P * G rows; row p*G + g is sample g of prompt p.
    """
    check_shapes(prompts)
    model = sampler.definition.bind(params)
    head_DV = model.head()
    is_forbidden_1V = _one_hot(sampler.forbidden_token_ids, head_DV.shape[1])[None]
    layers = model.unstack()

    hidden_PTD, prefix = model.prefill(prompts, model.image_features(prompts.vision))
    num_rows = prompts.token_PS.shape[0] * sampler.num_generations
    row_key_B = _row_keys(key, prompts.prompt_id_P, sampler.num_generations)
    next_position_B = jnp.repeat(prompts.next_position_P, sampler.num_generations)

    def draw(state: _State) -> tuple[_State, Int[Array, " B"]]:
        logits_BV = jnp.matmul(state.hidden_BD, head_DV, preferred_element_type=jnp.float32)
        drawable_BV = jnp.where(is_forbidden_1V, -jnp.inf, logits_BV)
        token_B = sampler.method(drawable_BV, jax.vmap(jax.random.fold_in, (0, None))(row_key_B, state.step))
        logp_B, entropy_B = _report(logits_BV / sampler.temperature_in_report, token_B)
        state = dataclasses.replace(
            state,
            is_running_B=state.is_running_B & ~_is_any_of(token_B, sampler.eos_token_ids),
            token_BT=state.token_BT.at[:, state.step].set(token_B),
            mask_BT=state.mask_BT.at[:, state.step].set(state.is_running_B),
            logp_BT=state.logp_BT.at[:, state.step].set(jnp.where(state.is_running_B, logp_B, 0.0)),
            entropy_BT=state.entropy_BT.at[:, state.step].set(jnp.where(state.is_running_B, entropy_B, 0.0)),
        )
        return state, token_B

    def advance(state: _State) -> _State:
        state, token_B = draw(state)
        hidden_BD, suffix = model.decode(
            layers, token_B, next_position_B + state.step, prefix=prefix, suffix=state.suffix, step=state.step
        )
        return dataclasses.replace(state, step=state.step + 1, hidden_BD=hidden_BD, suffix=suffix)

    def is_unfinished(state: _State) -> Bool[Array, ""]:
        return (state.step < sampler.max_length) & jnp.any(state.is_running_B)

    last_hidden_BD = jnp.repeat(hidden_PTD[:, -1], sampler.num_generations, axis=0)
    final = jax.lax.while_loop(is_unfinished, advance, _first_state(sampler, num_rows, last_hidden_BD))
    return Rollout(
        completions=Completions(token_BT=final.token_BT, mask_BT=final.mask_BT),
        logp_BT=final.logp_BT,
        entropy_BT=final.entropy_BT,
        has_ended_B=~final.is_running_B,
        num_steps=final.step,
    )


def _first_state(sampler: Sampler, num_rows: int, hidden_BD: Float[Array, "B D"]) -> _State:
    shape = (num_rows, sampler.max_length)
    return _State(
        step=jnp.int32(0),
        hidden_BD=hidden_BD,
        is_running_B=jnp.ones(num_rows, bool),
        suffix=SuffixCache.empty(sampler.definition.config, num_rows, sampler.max_length, hidden_BD.dtype),
        token_BT=jnp.zeros(shape, jnp.int32),
        mask_BT=jnp.zeros(shape, bool),
        logp_BT=jnp.zeros(shape, jnp.float32),
        entropy_BT=jnp.zeros(shape, jnp.float32),
    )


def _row_keys(key: Key[Array, ""], prompt_id_P: Int[Array, " P"], num_generations: int) -> Key[Array, " B"]:
    prompt_key_P = jax.vmap(jax.random.fold_in, (None, 0))(key, prompt_id_P)
    each_sample = jax.vmap(jax.random.fold_in, (None, 0))
    key_PG = jax.vmap(each_sample, (0, None))(prompt_key_P, jnp.arange(num_generations))
    return key_PG.reshape(-1)


def _report(logits_BV: Float[Array, "B V"], token_B: Int[Array, " B"]) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """Log-probability of the drawn token, and the entropy, both of the whole distribution and in nats."""
    logp_BV = jax.nn.log_softmax(logits_BV)
    logp_B = jnp.take_along_axis(logp_BV, token_B[:, None], axis=-1)[:, 0]
    return logp_B, -jnp.sum(jnp.exp(logp_BV) * logp_BV, axis=-1)


def _one_hot(ids: tuple[int, ...], size: int) -> Bool[Array, " V"]:
    return jnp.zeros(size, bool).at[jnp.asarray(ids, jnp.int32)].set(True, mode="drop")


def _is_any_of(token_B: Int[Array, " B"], ids: tuple[int, ...]) -> Bool[Array, " B"]:
    return jnp.any(token_B[:, None] == jnp.asarray(ids, jnp.int32)[None], axis=-1)
