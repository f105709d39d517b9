"""Abstract arguments of a run's programs, shapes and shardings without arrays: the largest batches that can occur."""

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

# Assumed maxima of a question's key steps; the real ones depend on the data.
_NUM_GROUPS, _NUM_SPELLINGS, _SPELLING_BYTES = 16, 4, 64
_BYTES_PER_TOKEN = 8

Shape = jax.ShapeDtypeStruct


def abstract(tree: Any, leaf_shardings: Any) -> Any:
    """Abstract arrays of a tree's shapes with the given shardings."""
    return jax.tree.map(_with_sharding, tree, leaf_shardings)


def abstract_params(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """A tree of parameters, or one with their paths, sharded by `sharding.rules`."""
    return abstract(tree, shardings(tree, mesh))


def sharded_batch(bundle: Bundle, mesh: jax.sharding.Mesh) -> Bundle:
    """A batch sharded as `sharding.batch` shards it."""
    return map_axes(lambda leaf, axes: _with_sharding(leaf, batch_sharding(axes, mesh)), bundle)


def replicated_shapes(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """A tree that every device holds in full."""
    return jax.tree.map(lambda leaf: _with_sharding(leaf, replicated(mesh)), tree)


def device_bytes(tree: Any) -> int:
    """Bytes of a tree on one device, without the padding that the compiler may add."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.sharding is not None]
    return bytes_per_device(leaves, [leaf.sharding for leaf in leaves])


def prompts(config: Config, tower: TowerConfig, num_prompts: int, mesh: jax.sharding.Mesh) -> PromptBatch:
    """Prompts of maximal length, each with one image of maximal size."""
    data, length = config.data, config.data.max_prompt_length
    num_rows = data.vision_shards * num_batch_shards(mesh)
    patches = patches_per_image(config, tower) * -(-num_prompts // num_rows)
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


def patches_per_image(config: Config, tower: TowerConfig) -> int:
    """Patches of an image of `data.max_pixels`, a multiple of the patches that merge into one feature."""
    pixels_per_feature = tower.patch_size**2 * tower.merge_length
    return config.data.max_pixels // pixels_per_feature * tower.merge_length


def completions(config: Config, num_rows: int, mesh: jax.sharding.Mesh) -> Completions:
    """Completions of maximal length."""
    shape = (num_rows, config.sampling.max_completion_length)
    return sharded_batch(Completions(Shape(shape, jnp.int32), Shape(shape, bool)), mesh)


def train_rows(config: Config, num_rows: int, mesh: jax.sharding.Mesh) -> TrainRows:
    """Completions with advantages and the log-probabilities that the loss needs."""
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
    """Key steps and answers of prompts, at the assumed maxima."""
    packed = rewards.pack(
        [{"answer": "0", "key_steps": []}] * num_prompts,
        semantics=config.reward.semantics,
        max_groups=_NUM_GROUPS,
        max_alternatives=_NUM_SPELLINGS,
        max_length=_SPELLING_BYTES,
    )
    return sharded_batch(jax.tree.map(lambda leaf: Shape(leaf.shape, leaf.dtype), RewardTargets(*packed)), mesh)


def vocabulary(vocab_size: int, mesh: jax.sharding.Mesh) -> Vocabulary:
    """The table token -> bytes."""
    table = Vocabulary(Shape((vocab_size + 1,), jnp.int32), Shape((_BYTES_PER_TOKEN * vocab_size,), jnp.uint8))
    return replicated_shapes(table, mesh)


def rng_key(mesh: jax.sharding.Mesh) -> Shape:
    """The random key of a step."""
    return replicated_shapes(jax.eval_shape(jax.random.key, 0), mesh)


def scalar(mesh: jax.sharding.Mesh, dtype: Any = jnp.float32) -> Shape:
    """A replicated scalar."""
    return replicated_shapes(Shape((), dtype), mesh)


def _with_sharding(leaf: Any, sharding: NamedSharding) -> Shape:
    return Shape(leaf.shape, leaf.dtype, sharding=sharding)
