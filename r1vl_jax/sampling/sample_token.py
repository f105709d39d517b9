"""One token for each row: drawn, and reported with its log-probability and the entropy it was drawn at."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from r1vl_jax.sampling.sampler import Sampler, constrain_to_tensor

Drawn = tuple[Int[Array, " B"], Float[Array, " B"], Float[Array, " B"]]


def sample_token(
    sampler: Sampler,
    head_DV: Float[Array, "D V"],
    hidden_BD: Float[Array, "B D"],
    uniform_B2: Float[Array, "B 2"],
) -> Drawn:
    """Tokens, log-probabilities and entropies, both of the whole distribution and in nats.

    Args:
        uniform_B2: see `uniforms`; they determine the draw.
    """
    logits_BV = constrain_to_tensor(sampler, jnp.matmul(hidden_BD, head_DV, preferred_element_type=jnp.float32))
    drawable_BV = jnp.where(_one_hot(sampler.forbidden_token_ids, logits_BV.shape[1])[None], -jnp.inf, logits_BV)
    token_B = sampler.method(drawable_BV, uniform_B2)
    score_BV = logits_BV / sampler.logp_temperature
    score_BV -= jnp.max(score_BV, axis=-1, keepdims=True)
    weight_BV = jnp.exp(score_BV)
    total_B = jnp.sum(weight_BV, axis=-1)
    log_total_B = jnp.log(total_B)
    logp_B = jnp.take_along_axis(score_BV, token_B[:, None], axis=-1)[:, 0] - log_total_B
    return token_B, logp_B, log_total_B - jnp.sum(weight_BV * score_BV, axis=-1) / total_B


def row_keys(key: Key[Array, ""], prompt_id_P: Int[Array, " P"], num_generations: int) -> Key[Array, " B"]:
    """The key of a step, folded with prompt and sample."""
    prompt_key_P = jax.vmap(jax.random.fold_in, (None, 0))(key, prompt_id_P)
    each_sample = jax.vmap(jax.random.fold_in, (None, 0))
    key_PG = jax.vmap(each_sample, (0, None))(prompt_key_P, jnp.arange(num_generations))
    return key_PG.reshape(-1)


def uniform_noise(row_key_B: Key[Array, " B"], length: int) -> Float[Array, "B T 2"]:
    """The random numbers of every draw, in [0, 1), from the row's key folded with the position.

    Made at once: one by one, as tokens are drawn, they take as long as a small model's layer.
    """

    def of_draw(row_key: Key[Array, ""], step: Int[Array, ""]) -> Float[Array, " 2"]:
        return jax.random.uniform(jax.random.fold_in(row_key, step), (2,))

    of_row = jax.vmap(of_draw, (None, 0))
    return jax.vmap(of_row, (0, None))(row_key_B, jnp.arange(length))


def is_eos(sampler: Sampler, token_B: Int[Array, " B"]) -> Bool[Array, " B"]:
    """Which tokens end a completion."""
    return jnp.any(token_B[:, None] == jnp.asarray(sampler.eos_token_ids, jnp.int32)[None], axis=-1)


def _one_hot(ids: tuple[int, ...], size: int) -> Bool[Array, " V"]:
    return jnp.zeros(size, bool).at[jnp.asarray(ids, jnp.int32)].set(True, mode="drop")
