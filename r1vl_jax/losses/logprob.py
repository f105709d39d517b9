"""Log-probabilities of given tokens, without ever holding the logits of a whole batch.

At 8,192 tokens and a vocabulary of 152,064 the float32 logits alone are 4.6 GiB; a chunk of 1,024 tokens is 0.6.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# (hidden [.., D], target [..]) -> logp [..], entropy [..]
Score = Callable[[Array, Array], tuple[Array, Array]]


def token_logp(
    hidden_BTD: Float[Array, "B T D"],
    head_DV: Float[Array, "D V"],
    target_BT: Int[Array, "B T"],
    *,
    chunk_size: int,
    temperature: float = 1.0,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Log-probability of each target token, and the entropy of the distribution that it is a token of.

        logp = log softmax(hidden @ head / temperature)[target]

    The product is taken in the dtype of `hidden` and accumulated in float32; logits, softmax and the sum of the head's
    gradient over chunks are float32 always. The backward pass computes the logits of a chunk again.

    Args:
        hidden_BTD: final hidden states; position t predicts `target_BT[:, t]`.
        head_DV: output projection.
        target_BT: token ids in [0, V).
        chunk_size: how many tokens have logits at one time. Chunks are whole columns of B tokens, and at least one, so
            that an axis B that is spread over devices stays so.
        temperature: divides the logits.

    Returns:
        Log-probability and entropy in nats, float32. The entropy carries no gradient: it is a constant wherever it is
        used, in reports and in weights.
    """
    head_DV = head_DV.astype(jnp.float32)  # so that the scan sums its gradient in float32

    def score(hidden_TBD: Array, target_TB: Array) -> tuple[Array, Array]:
        logits_TBV = jnp.matmul(hidden_TBD, head_DV.astype(hidden_TBD.dtype), preferred_element_type=jnp.float32)
        return _logp_and_entropy(logits_TBV / temperature, target_TB)

    columns = max(1, chunk_size // target_BT.shape[0])
    logp_TB, entropy_TB = _score_in_chunks(score, jnp.swapaxes(hidden_BTD, 0, 1), target_BT.T, columns)
    return logp_TB.T, entropy_TB.T


def _score_in_chunks(score: Score, hidden_TBD: Array, target_TB: Array, columns: int) -> tuple[Array, Array]:
    """Applies `score` to so many columns at a time; a single chunk is computed directly."""
    length = target_TB.shape[0]
    if length <= columns:
        return score(hidden_TBD, target_TB)

    num_chunks = -(-length // columns)

    def split(array_T: Array) -> Array:
        padding = [(0, num_chunks * columns - length)] + [(0, 0)] * (array_T.ndim - 1)
        return jnp.pad(array_T, padding).reshape(num_chunks, columns, *array_T.shape[1:])

    def body(_: None, chunk: tuple[Array, Array]) -> tuple[None, tuple[Array, Array]]:
        return None, score(*chunk)

    _, parts = jax.lax.scan(jax.checkpoint(body, prevent_cse=False), None, (split(hidden_TBD), split(target_TB)))
    logp_TB, entropy_TB = (part.reshape(-1, *part.shape[2:])[:length] for part in parts)
    return logp_TB, entropy_TB


def _logp_and_entropy(logits_TBV: Array, target_TB: Array) -> tuple[Array, Array]:
    """Log-probability of the target, and entropy H = log Z - sum_v p_v logit_v, in nats."""
    log_z_TB = jax.nn.logsumexp(logits_TBV, axis=-1)
    # A comparison, not a gather: it fuses with the sum and splits over a sharded vocabulary.
    is_target_TBV = target_TB[..., None] == jnp.arange(logits_TBV.shape[-1])[None, None]
    target_logit_TB = jnp.sum(jnp.where(is_target_TBV, logits_TBV, 0.0), axis=-1)
    constant_TBV = jax.lax.stop_gradient(logits_TBV)
    constant_log_z_TB = jax.lax.stop_gradient(log_z_TB)
    probability_TBV = jnp.exp(constant_TBV - constant_log_z_TB[..., None])
    expected_logit_TB = jnp.sum(probability_TBV * constant_TBV, axis=-1)
    return target_logit_TB - log_z_TB, constant_log_z_TB - expected_logit_TB
