"""Shapes and places of all that the programs of a run take, without an array: the largest batches that can occur."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from r1vl_jax import rewards
from r1vl_jax.arrays import Bundle, Completions, PackedVision, PromptBatch, TrainRows, map_axes
from r1vl_jax.config import Config
from r1vl_jax.models.qwen2_vl.config import TowerConfig
from r1vl_jax.rewards.text import Vocabulary
from r1vl_jax.rewards.weighted_sum import RewardTargets
from r1vl_jax.sharding.batch import batch_sharding, num_batch_shards, replicated
from r1vl_jax.sharding.rules import bytes_per_device, shardings

# What the key steps of questions are taken to be at most; real ones are known only from the data.
_NUM_GROUPS, _NUM_ALTERNATIVES, _SPELLING_BYTES = 16, 4, 64
_BYTES_OF_A_TOKEN = 8

Shape = jax.ShapeDtypeStruct


def at(tree: Any, placements: Any) -> Any:
    """A tree with every leaf where a tree of shardings puts it."""
    return jax.tree.map(_with_sharding, tree, placements)


def with_shardings(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """A tree of parameters, or what has their paths, with every leaf where the table of `sharding` puts it."""
    return at(tree, shardings(tree, mesh))


def sharded_batch(bundle: Bundle, mesh: jax.sharding.Mesh) -> Bundle:
    """A batch whose rows are divided over the devices as `sharding.divide` divides them."""
    return map_axes(lambda leaf, axes: _with_sharding(leaf, batch_sharding(axes, mesh)), bundle)


def sampler_params(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """What every device has all of."""
    return jax.tree.map(lambda leaf: _with_sharding(leaf, replicated(mesh)), tree)


def resident_bytes(tree: Any) -> int:
    """Of all leaves, as the numbers themselves take; the compiler may add padding."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.sharding is not None]
    return bytes_per_device(leaves, [leaf.sharding for leaf in leaves])


def prompts(config: Config, tower: TowerConfig, num_prompts: int, mesh: jax.sharding.Mesh) -> PromptBatch:
    """Prompts as long as they may be, each with one picture as large as it may be."""
    data, length = config.data, config.data.max_prompt_length
    num_rows = data.vision_shards * num_batch_shards(mesh)
    patches = patches_of_picture(config, tower) * -(-num_prompts // num_rows)
    num_slots = -(-patches // data.patch_bucket) * data.patch_bucket
    batch = PromptBatch(
        token_PS=Shape((num_prompts, length), jnp.int32),
        mask_PS=Shape((num_prompts, length), bool),
        position_3PS=Shape((3, num_prompts, length), jnp.int32),
        feature_index_PS=Shape((num_prompts, length), jnp.int32),
        next_position_P=Shape((num_prompts,), jnp.int32),
        prompt_id_P=Shape((num_prompts,), jnp.int32),
        vision=PackedVision(
            patch_ZMC=Shape((num_rows, num_slots, tower.patch_dim), jnp.float32),
            segment_ZM=Shape((num_rows, num_slots), jnp.int32),
            position_ZM2=Shape((num_rows, num_slots, 2), jnp.int32),
        ),
    )
    return sharded_batch(batch, mesh)


def patches_of_picture(config: Config, tower: TowerConfig) -> int:
    """Of one picture of `data.max_pixels`: whole squares of patches that become one feature."""
    pixels_of_feature = tower.patch_size**2 * tower.merge_length
    return config.data.max_pixels // pixels_of_feature * tower.merge_length


def completions(config: Config, num_rows: int, mesh: jax.sharding.Mesh) -> Completions:
    """As long as they may be."""
    shape = (num_rows, config.sampling.max_completion_length)
    return sharded_batch(Completions(Shape(shape, jnp.int32), Shape(shape, bool)), mesh)


def train_rows(config: Config, num_rows: int, mesh: jax.sharding.Mesh) -> TrainRows:
    """What an update knows of completions, as far as the loss needs it."""
    loss, shape = config.loss, (num_rows, config.sampling.max_completion_length)
    number = Shape(shape, jnp.float32)
    rows = TrainRows(
        completions=Completions(Shape(shape, jnp.int32), Shape(shape, bool)),
        advantage_BT=number,
        ref_logp_BT=number if loss.needs_reference else None,
        sampling_logp_BT=number,
        old_logp_BT=number if loss.updates_per_generation > 1 else None,
        weight_BT=number if loss.egsw_level else None,
    )
    return sharded_batch(rows, mesh)


def reward_targets(config: Config, num_prompts: int, mesh: jax.sharding.Mesh) -> RewardTargets:
    """Key steps and answers of prompts, with many key steps."""
    packed = rewards.pack(
        [{"answer": "0", "key_steps": []}] * num_prompts,
        semantics=config.reward.semantics,
        max_groups=_NUM_GROUPS,
        max_alternatives=_NUM_ALTERNATIVES,
        max_length=_SPELLING_BYTES,
    )
    return sharded_batch(jax.tree.map(lambda leaf: Shape(leaf.shape, leaf.dtype), RewardTargets(*packed)), mesh)


def vocabulary(vocab_size: int, mesh: jax.sharding.Mesh) -> Vocabulary:
    """The bytes of every token."""
    table = Vocabulary(Shape((vocab_size + 1,), jnp.int32), Shape((_BYTES_OF_A_TOKEN * vocab_size,), jnp.uint8))
    return sampler_params(table, mesh)


def key(mesh: jax.sharding.Mesh) -> Shape:
    """What the draws of a step are folded from."""
    return sampler_params(jax.eval_shape(jax.random.key, 0), mesh)


def scalar(mesh: jax.sharding.Mesh, dtype: Any = jnp.float32) -> Shape:
    """One number."""
    return sampler_params(Shape((), dtype), mesh)


def _with_sharding(leaf: Any, sharding: NamedSharding) -> Shape:
    return Shape(leaf.shape, leaf.dtype, sharding=sharding)
