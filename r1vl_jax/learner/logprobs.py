"""Log-probabilities of given completions: one forward pass over each prompt and its completions."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from r1vl_jax import losses
from r1vl_jax.arrays import Completions, Params, PromptBatch, Rollout, SampledRows, bundle, check_shapes
from r1vl_jax.learner.learner import Learner
from r1vl_jax.models.attention.shared_prefix import SharedPrefix
from r1vl_jax.models.qwen2_vl.model import Qwen2VL


@bundle
class Sequences:
    """The decoder's input when completions are scored: R prompts, each followed by some of its completions.

    | prompt, padded on the left | completion 0, padded on the right | completion 1 | ... |
    """

    token_RS: Int[Array, "R S"]
    mask_RS: Bool[Array, "R S"]
    position_RS3: Int[Array, "R S 3"]
    feature_index_RS: Int[Array, "R S"]


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

    The head is applied only at the positions that predict completion tokens.
    """
    num_sequences, num_columns = sequences.token_RS.shape
    num_rows, length = completions.token_BT.shape
    shared_prefix = SharedPrefix(num_rows // num_sequences, length)
    hidden_RSD = model.hidden_states(
        sequences.token_RS,
        mask_BT=sequences.mask_RS,
        position_3BT=jnp.moveaxis(sequences.position_RS3, -1, 0),
        feature_index_BT=sequences.feature_index_RS,
        feature_MD=feature_MD,
        shared_prefix=shared_prefix,
    )
    # The hidden state at column t predicts token t + 1: the prompt's last one predicts every completion's first token.
    prefix_length = shared_prefix.prefix_length(num_columns)
    last_of_prompt_B1D = jnp.repeat(
        hidden_RSD[:, prefix_length - 1 : prefix_length], shared_prefix.num_completions, axis=0
    )
    hidden_BTD = hidden_RSD[:, prefix_length:].reshape(num_rows, length, -1)
    logp_BT, entropy_BT = losses.token_logp(
        jnp.concatenate([last_of_prompt_B1D, hidden_BTD[:, :-1]], axis=1),
        model.head(),
        completions.token_BT,
        chunk_size=chunk_size,
        temperature=temperature,
        mesh=model.definition.mesh,
    )
    return jnp.where(completions.mask_BT, logp_BT, 0.0), jnp.where(completions.mask_BT, entropy_BT, 0.0)


def concat_prompt_and_completions(prompts: PromptBatch, completions: Completions, *, num_sequences: int) -> Sequences:
    """Appends completions to their prompts; the positions of each completion continue its prompt's.

    Args:
        num_sequences: a multiple of the prompts and a divisor of the completions. With one sequence a prompt, each
            prompt is read once; with more, a prompt is repeated and its completions are split over the copies.
    """
    num_rows, length = completions.token_BT.shape
    num_columns = num_rows // num_sequences * length

    def repeat(array_P: Array) -> Array:
        return jnp.repeat(array_P, num_sequences // len(array_P), axis=0)

    def concat(prompt_PS: Array, completion_BT: Array) -> Array:
        side_by_side_RS = completion_BT.reshape(num_sequences, num_columns, *completion_BT.shape[2:])
        return jnp.concatenate([repeat(prompt_PS), side_by_side_RS], axis=1)

    next_position_R = repeat(prompts.next_position_P)
    position_RS = next_position_R[:, None] + jnp.arange(num_columns)[None] % length
    position_RS3 = jnp.broadcast_to(position_RS[:, :, None], (num_sequences, num_columns, 3))
    return Sequences(
        token_RS=concat(prompts.token_PS, completions.token_BT),
        mask_RS=concat(prompts.mask_PS, completions.mask_BT),
        position_RS3=concat(jnp.moveaxis(prompts.position_3PS, 0, -1), position_RS3),
        feature_index_RS=concat(prompts.feature_index_PS, jnp.full_like(completions.token_BT, -1)),
    )


@partial(jax.jit, static_argnums=0)
def compute_logps(
    learner: Learner, params: Params, prompts: PromptBatch, completions: Completions
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Log-probability and entropy of every completion token, in nats; 0 outside the mask."""
    check_shapes(completions)
    feature_MD = learner.definition.bind(params).image_features(prompts.vision)
    num_sequences = learner.num_sequences(len(prompts.token_PS), len(completions.token_BT))
    sequences = concat_prompt_and_completions(prompts, completions, num_sequences=num_sequences)
    return sequence_logps(learner, params, feature_MD, sequences, completions)


def add_reference_logps(
    learner: Learner, params: Params, reference: Params | None, prompts: PromptBatch, rollout: Rollout
) -> SampledRows:
    """Adds to a rollout the log-probs that advantages and loss need: the reference's, and the policy's own.

    Args:
        params: of the policy that sampled.
        reference: the frozen reference; None where nothing needs it.
    """
    policy_logp_BT = entropy_BT = ref_logp_BT = None
    if reference is not None:
        ref_logp_BT, _ = compute_logps(learner, reference, prompts, rollout.completions)
    if learner.loss.needs_policy_logps:
        policy_logp_BT, entropy_BT = compute_logps(learner, params, prompts, rollout.completions)
    return SampledRows(
        rollout.completions, rollout.has_ended_B, rollout.logp_BT, policy_logp_BT, entropy_BT, ref_logp_BT
    )


def sequence_logps(
    learner: Learner,
    params: Params,
    feature_MD: Float[Array, "M D"],
    sequences: Sequences,
    completions: Completions,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """`completion_logp` with the learner's settings, for one micro-batch or the whole batch."""
    return completion_logp(
        learner.definition.bind(params),
        feature_MD,
        sequences,
        completions,
        chunk_size=learner.chunk_size,
        temperature=learner.temperature,
    )
