"""Bundles of arrays that are passed between the parts of a step, with their axes, and a check of their shapes.

Axis letters, used as suffixes of names and in annotations:

    P prompts     G samples per prompt    B rows = P*G (row p*G + g)    T token or query positions
    S key/value positions     V vocabulary   D residual width   F MLP width   N query heads
    K key/value heads   Q = N/K   H head width   L layers   E vision width   I images
    Z batch shards   M packed image patches of a shard   C values of a patch (3*2*14*14 = 1176)
    J sections of a completion   R key-step groups   A alternative spellings   U bytes of a completion

Bundles are frozen and registered as pytrees, so they pass through `jax.jit` unchanged.
"""

import dataclasses
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jaxtyping import Bool, Float, Int

Array = Any  # NumPy on the host, JAX in compiled code
Params = dict[str, Any]  # a nested dictionary of arrays: params["text"]["norm"]["scale"]
Bundle = TypeVar("Bundle")

BATCH_AXES = ("data", "fsdp")  # mesh axes over which the rows of a batch are sharded


@typing.dataclass_transform(frozen_default=True)
def bundle(cls: type[Bundle]) -> type[Bundle]:
    """Makes a class a frozen dataclass that is registered as a pytree."""
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


@bundle
class PackedVision:
    """The patches of all images of a batch, packed into one row per batch shard.

    Patches are in Qwen's order: four consecutive patches are a 2x2 square, which the merger turns into one feature.

        shard z:  | image 0: 4 patches a feature ... | image 1 ... | padding |
                  segment 1                            segment 2     segment 0

    Attributes:
        patch_ZMC: normalised pixel values, (channel, frame, row, column) flattened; 0 in padding.
        segment_ZM: index of the frame that a patch belongs to, from 1; attention is within a frame; 0 is padding.
        position_ZM2: row and column of the patch in its frame, in patches.
    """

    patch_ZMC: Float[Array, "Z M C"]
    segment_ZM: Int[Array, "Z M"]
    position_ZM2: Int[Array, "Z M 2"]


@bundle
class PromptBatch:
    """P prompts, padded on the left.

    Attributes:
        token_PS: token ids; any id in padding.
        mask_PS: True outside padding.
        position_3PS: M-RoPE position in time, height and width; 0 in padding.
        feature_index_PS: index of the merged patch that replaces the embedding, in the flattened [Z, M/4]; -1 for text.
        next_position_P: RoPE position of the first token after the prompt (the same on all three axes).
        prompt_id_P: index of the prompt within its step; with seed and step it determines the random keys.
        vision: the images of all prompts.
    """

    token_PS: Int[Array, "P S"]
    mask_PS: Bool[Array, "P S"]
    position_3PS: Int[Array, "3 P S"]
    feature_index_PS: Int[Array, "P S"]
    next_position_P: Int[Array, " P"]
    prompt_id_P: Int[Array, " P"]
    vision: PackedVision


@bundle
class Completions:
    """One completion per row, padded on the right. Row p*G + g is sample g of prompt p.

    Attributes:
        token_BT: token ids; any id outside the mask.
        mask_BT: True up to and including the first end-of-sequence token.
    """

    token_BT: Int[Array, "B T"]
    mask_BT: Bool[Array, "B T"]


@bundle
class Rollout:
    """The output of the sampler.

    Attributes:
        completions: the sampled tokens and their mask.
        logp_BT: log-probability of each token under the full distribution, without top-k or top-p, in nats; 0 outside
            the mask.
        entropy_BT: entropy of that distribution, in nats; 0 outside the mask.
        has_ended_B: True where an end-of-sequence token was sampled before the length limit.
        num_steps: decoding steps until all rows had ended; over shards, the maximum.
    """

    completions: Completions
    logp_BT: Float[Array, "B T"]
    entropy_BT: Float[Array, "B T"]
    has_ended_B: Bool[Array, " B"]
    num_steps: Int[Array, ""]


@bundle
class SFTBatch:
    """A batch for supervised fine-tuning: one target completion per prompt (B = P)."""

    prompts: PromptBatch
    completions: Completions


@bundle
class SampledRows:
    """Sampled completions with their log-probabilities and entropies, in nats.

    Attributes:
        has_ended_B: True where an end-of-sequence token was sampled before the length limit.
        sampling_logp_BT: log-probability reported by the sampler; for metrics, not for the loss.
        policy_logp_BT, entropy_BT: recomputed by a forward pass of the policy that sampled; None if not needed.
        ref_logp_BT: log-probability under the frozen reference; None without a reference.
    """

    completions: Completions
    has_ended_B: Bool[Array, " B"]
    sampling_logp_BT: Float[Array, "B T"]
    policy_logp_BT: Float[Array, "B T"] | None
    entropy_BT: Float[Array, "B T"] | None
    ref_logp_BT: Float[Array, "B T"] | None


@bundle
class RewardSections:
    """The sections of completions and their rewards, for step-level credit (`loss.credit="step"`).

    Attributes:
        section_end_BJ: byte offset where each section ends; -1 in padding.
        section_reward_BJ: weighted reward of each section, in reward units; 0 in padding.
        size_BT: bytes of text of each token, 0 for special tokens.
    """

    section_end_BJ: Int[Array, "B J"]
    section_reward_BJ: Float[Array, "B J"]
    size_BT: Int[Array, "B T"]


@bundle
class TrainRows:
    """The inputs of the StepGRPO loss for each sampled completion.

    Attributes:
        completions: their mask may leave out whole rows, such as truncated completions.
        advantage_BT: advantage of each token, in standard deviations of its group.
        ref_logp_BT: log-probability under the frozen reference, in nats; None without a reference.
        sampling_logp_BT: log-probability reported by the sampler, in nats; for metrics, not for the loss.
        old_logp_BT: log-probability under the policy that sampled, in nats; None if on-policy.
        weight_BT: weight of the policy gradient of each token (EGSW); None is 1.
    """

    completions: Completions
    advantage_BT: Float[Array, "B T"]
    ref_logp_BT: Float[Array, "B T"] | None
    sampling_logp_BT: Float[Array, "B T"]
    old_logp_BT: Float[Array, "B T"] | None = None
    weight_BT: Float[Array, "B T"] | None = None


@bundle
class TrainBatch:
    """The batch of a StepGRPO update: P prompts, each shared by its G rows.

    Attributes:
        denominator: what the summed loss is divided by, see `losses.denominator`; None: computed from these rows.
    """

    prompts: PromptBatch
    rows: TrainRows
    denominator: Float[Array, ""] | None = None


def map_axes(function: Callable[[Array, list[str]], Array], bundle: Bundle) -> Bundle:
    """Maps a function of (array, axis letters) over the arrays of a bundle; None stays None."""

    def mapped(field: dataclasses.Field) -> Any:
        value = getattr(bundle, field.name)
        if value is None or dataclasses.is_dataclass(value):
            return value if value is None else map_axes(function, value)
        return function(value, _array_annotation(field.type).dim_str.split())

    return type(bundle)(**{field.name: mapped(field) for field in dataclasses.fields(bundle)})  # pyright: ignore[reportArgumentType]


def check_shapes(bundle: Bundle) -> Bundle:
    """Returns the bundle if every array matches its annotation, with one size for each axis letter.

    Raises:
        ValueError: lists every field that does not match, with expected and actual shape or dtype.
    """
    size_of_axis: dict[str, int] = {}
    mismatches = list(_mismatches(bundle, type(bundle).__name__, size_of_axis))
    if mismatches:
        raise ValueError("arrays do not match their annotations:\n  " + "\n  ".join(mismatches))
    return bundle


def _mismatches(bundle: Any, path: str, size_of_axis: dict[str, int]):
    for field in dataclasses.fields(bundle):
        value, name = getattr(bundle, field.name), f"{path}.{field.name}"
        if dataclasses.is_dataclass(value):
            yield from _mismatches(value, name, size_of_axis)
        elif value is not None:
            yield from _array_mismatches(value, _array_annotation(field.type), name, size_of_axis)


def _array_annotation(annotation: Any) -> Any:
    """The jaxtyping annotation in `Float[Array, "B"] | None`."""
    return next(part for part in getattr(annotation, "__args__", (annotation,)) if hasattr(part, "dim_str"))


def _array_mismatches(value: Any, annotation: Any, name: str, size_of_axis: dict[str, int]):
    axes = annotation.dim_str.split()
    if len(axes) != len(value.shape):
        yield f"{name}: expected axes [{' '.join(axes)}], got shape {tuple(value.shape)}"
        return
    if value.dtype.name not in annotation.dtypes:
        yield f"{name}: expected {annotation.__name__.split('[')[0]} values, got {value.dtype.name}"
    for axis, size in zip(axes, value.shape, strict=True):
        expected = int(axis) if axis.isdigit() else size_of_axis.setdefault(axis, size)
        if size != expected:
            yield f"{name}: axis {axis} is {size} here and {expected} elsewhere (shape {tuple(value.shape)})"
