"""One decode step's sampling: the next token of each row, with its log-probability and the distribution's entropy."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from r1vl_jax.sampling.sampler import Sampler, constrain_to_tensor

SampledToken = tuple[Int[Array, " B"], Float[Array, " B"], Float[Array, " B"]]


def sample_token(
    sampler: Sampler,
    head_DV: Float[Array, "D V"],
    hidden_BD: Float[Array, "B D"],
    uniform_B2: Float[Array, "B 2"],
) -> SampledToken:
    """Samples a token per row from the logits hidden @ head.

    Args:
        uniform_B2: random numbers from `uniform_noise`, which determine the token.

    Returns:
        Tokens, their log-probabilities, and entropies. Both are of the whole distribution at `logp_temperature`, before
        the method's temperature and filters and with forbidden tokens in it, in nats.
    """
    logits_BV = constrain_to_tensor(sampler, jnp.matmul(hidden_BD, head_DV, preferred_element_type=jnp.float32))
    is_forbidden_V = _multi_hot(sampler.forbidden_token_ids, logits_BV.shape[1])
    # Forbidden tokens are excluded from sampling only. The learner scores the unmodified distribution, and so must the
    # log-probabilities reported here.
    token_B = sampler.method(jnp.where(is_forbidden_V[None], -jnp.inf, logits_BV), uniform_B2)
    # log_softmax and entropy share their passes over the vocabulary: with z = logits - max and Z = sum exp(z),
    # log p = z - log Z and the entropy is log Z - sum(exp(z) z) / Z.
    shifted_BV = logits_BV / sampler.logp_temperature
    shifted_BV -= jnp.max(shifted_BV, axis=-1, keepdims=True)
    weight_BV = jnp.exp(shifted_BV)
    sum_B = jnp.sum(weight_BV, axis=-1)
    log_sum_B = jnp.log(sum_B)
    logp_B = jnp.take_along_axis(shifted_BV, token_B[:, None], axis=-1)[:, 0] - log_sum_B
    return token_B, logp_B, log_sum_B - jnp.sum(weight_BV * shifted_BV, axis=-1) / sum_B


def row_keys(key: Key[Array, ""], prompt_id_P: Int[Array, " P"], num_generations: int) -> Key[Array, " B"]:
    """A random key for each row: the step's key, folded with prompt and sample."""
    # The prompt's id within the step, not its place in the batch, so that a batch may be reordered or split.
    prompt_key_P = jax.vmap(jax.random.fold_in, (None, 0))(key, prompt_id_P)
    fold_in_sample = jax.vmap(jax.random.fold_in, (None, 0))
    key_PG = jax.vmap(fold_in_sample, (0, None))(prompt_key_P, jnp.arange(num_generations))
    return key_PG.reshape(-1)


def uniform_noise(row_key_B: Key[Array, " B"], length: int) -> Float[Array, "B T 2"]:
    """The random numbers in [0, 1) of every token: two for each, from the row's key folded with the position.

    Generated at once before the decode loop: inside it, a step's random numbers take as long as a small model's layer.
    """

    def noise_of_token(row_key: Key[Array, ""], step: Int[Array, ""]) -> Float[Array, " 2"]:
        return jax.random.uniform(jax.random.fold_in(row_key, step), (2,))

    noise_of_row = jax.vmap(noise_of_token, (None, 0))
    return jax.vmap(noise_of_row, (0, None))(row_key_B, jnp.arange(length))


def is_eos(sampler: Sampler, token_B: Int[Array, " B"]) -> Bool[Array, " B"]:
    """Which tokens end a completion."""
    return jnp.any(token_B[:, None] == jnp.asarray(sampler.eos_token_ids, jnp.int32)[None], axis=-1)


def _multi_hot(ids: tuple[int, ...], size: int) -> Bool[Array, " V"]:
    return jnp.zeros(size, bool).at[jnp.asarray(ids, jnp.int32)].set(True, mode="drop")
