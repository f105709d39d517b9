"""Log-probabilities of given completions: one pass over prompt and completion, end to end."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from r1vl_jax import losses
from r1vl_jax.arrays import Completions, PromptBatch, bundle
from r1vl_jax.models.qwen2_vl.model import Qwen2VL


@bundle
class Sequences:
    """Prompt and completion of every row, end to end: what the decoder reads when completions are scored."""

    token_BS: Int[Array, "B S"]
    mask_BS: Bool[Array, "B S"]
    position_BS3: Int[Array, "B S 3"]
    feature_index_BS: Int[Array, "B S"]


def completion_logp(
    model: Qwen2VL,
    feature_MD: Float[Array, "M D"],
    sequences: Sequences,
    completions: Completions,
    *,
    chunk_size: int,
    temperature: float,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Log-probability and entropy of every completion token, in nats; 0 outside the mask.

    Only the positions that predict completion tokens meet the head.
    """
    hidden_BSD = model.hidden_states(
        sequences.token_BS,
        mask_BT=sequences.mask_BS,
        position_3BT=jnp.moveaxis(sequences.position_BS3, -1, 0),
        feature_index_BT=sequences.feature_index_BS,
        feature_MD=feature_MD,
    )
    first = sequences.token_BS.shape[1] - completions.token_BT.shape[1]
    logp_BT, entropy_BT = losses.token_logp(
        hidden_BSD[:, first - 1 : -1],
        model.head(),
        completions.token_BT,
        chunk_size=chunk_size,
        temperature=temperature,
        mesh=model.definition.mesh,
    )
    return jnp.where(completions.mask_BT, logp_BT, 0.0), jnp.where(completions.mask_BT, entropy_BT, 0.0)


def join(prompts: PromptBatch, completions: Completions) -> Sequences:
    """Puts every completion behind its prompt; positions of the completion count on from the prompt's."""
    num_rows, length = completions.token_BT.shape
    num_generations = num_rows // prompts.token_PS.shape[0]

    def rows(array_P: Array) -> Array:
        return jnp.repeat(array_P, num_generations, axis=0)

    position_BT = rows(prompts.next_position_P)[:, None] + jnp.arange(length)[None]
    position_BT3 = jnp.broadcast_to(position_BT[:, :, None], (num_rows, length, 3))
    text_BT = jnp.full((num_rows, length), -1, prompts.feature_index_PS.dtype)
    return Sequences(
        token_BS=jnp.concatenate([rows(prompts.token_PS), completions.token_BT], axis=1),
        mask_BS=jnp.concatenate([rows(prompts.mask_PS), completions.mask_BT], axis=1),
        position_BS3=jnp.concatenate([rows(jnp.moveaxis(prompts.position_3PS, 0, -1)), position_BT3], axis=1),
        feature_index_BS=jnp.concatenate([rows(prompts.feature_index_PS), text_BT], axis=1),
    )
