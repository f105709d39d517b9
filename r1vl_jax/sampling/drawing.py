"""One token for each row: drawn, and reported with its log-probability and the entropy it was drawn at."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from r1vl_jax.sampling.sampler import LOGITS, ROWS, Sampler, constrain

Drawn = tuple[Int[Array, " B"], Float[Array, " B"], Float[Array, " B"]]


def draw(
    sampler: Sampler,
    head_DV: Float[Array, "D V"],
    hidden_BD: Float[Array, "B D"],
    row_key_B: Key[Array, " B"],
    step_B: Int[Array, " B"],
) -> Drawn:
    """Tokens, log-probabilities and entropies, both of the whole distribution and in nats.

    Args:
        row_key_B: see `row_keys`; with the step it determines the draw.
        step_B: tokens of each row so far.
    """
    logits_BV = jnp.matmul(hidden_BD, head_DV, preferred_element_type=jnp.float32)
    logits_BV = constrain(sampler.mesh, logits_BV, LOGITS)
    drawable_BV = jnp.where(_one_hot(sampler.forbidden_token_ids, logits_BV.shape[1])[None], -jnp.inf, logits_BV)
    token_B = sampler.method(drawable_BV, jax.vmap(jax.random.fold_in)(row_key_B, step_B))
    token_B = constrain(sampler.mesh, token_B, ROWS)
    logp_BV = jax.nn.log_softmax(logits_BV / sampler.temperature_in_report)
    logp_B = jnp.take_along_axis(logp_BV, token_B[:, None], axis=-1)[:, 0]
    return token_B, logp_B, -jnp.sum(jnp.exp(logp_BV) * logp_BV, axis=-1)


def row_keys(key: Key[Array, ""], prompt_id_P: Int[Array, " P"], num_generations: int) -> Key[Array, " B"]:
    """The key of a step, folded with prompt and sample."""
    prompt_key_P = jax.vmap(jax.random.fold_in, (None, 0))(key, prompt_id_P)
    each_sample = jax.vmap(jax.random.fold_in, (None, 0))
    key_PG = jax.vmap(each_sample, (0, None))(prompt_key_P, jnp.arange(num_generations))
    return key_PG.reshape(-1)


def is_end(sampler: Sampler, token_B: Int[Array, " B"]) -> Bool[Array, " B"]:
    """Which tokens end a completion."""
    return jnp.any(token_B[:, None] == jnp.asarray(sampler.eos_token_ids, jnp.int32)[None], axis=-1)


def _one_hot(ids: tuple[int, ...], size: int) -> Bool[Array, " V"]:
    return jnp.zeros(size, bool).at[jnp.asarray(ids, jnp.int32)].set(True, mode="drop")
