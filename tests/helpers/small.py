"""A very small model and prompts with pictures for it, for tests that look at the loop and not at the numbers."""

import dataclasses
import functools

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from r1vl_jax.arrays import Completions, PackedVision, PromptBatch, TrainBatch, TrainRows
from r1vl_jax.config import Model
from r1vl_jax.data.records import Record
from r1vl_jax.models.lora import LoRA, is_adapter, merge_adapter
from r1vl_jax.models.qwen2_vl.config import Config, VisionConfig
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.models.trainable import partition
from r1vl_jax.rewards.text import Vocabulary

VOCAB_SIZE, IMAGE_TOKEN, EOS = 48, 40, 7
CONFIG = Config(
    vocab_size=VOCAB_SIZE,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vision=VisionConfig(depth=2, embed_dim=16, num_heads=2),
    tie_word_embeddings=True,
    mrope_section=(2, 1, 1),
    rope_theta=100.0,
    initializer_range=0.16,
    image_token_id=IMAGE_TOKEN,
    video_token_id=41,
    vision_start_token_id=42,
    vision_end_token_id=43,
)
DEFINITION = Definition(CONFIG)
# What a token stands for: pieces of paths, so that a random model earns something.
PIECES = ["### The final answer is:\n", "7", "\n\n### Step 1:\n", "3+4", "=7", " ", "### Rationales:\n", "é"]
TEXTS = [b"" if token < 8 else PIECES[token % len(PIECES)].encode() for token in range(VOCAB_SIZE)]
VOCABULARY = Vocabulary(
    np.cumsum([0, *map(len, TEXTS)], dtype=np.int32), np.frombuffer(b"".join(TEXTS), np.uint8).copy()
)


@functools.cache
def _init(definition: Definition):
    return jax.jit(definition.init)


def make_params(seed: int = 0, scale: float = 1.0, definition: Definition = DEFINITION):
    """Parameters large enough that different tokens give different distributions."""
    params = _init(definition)(jax.random.key(seed))
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * scale if getattr(path[-1], "key", "") in ("kernel", "embedding") else leaf, params
    )


def make_prompts(num_prompts: int = 3, length: int = 10, seed: int = 0) -> PromptBatch:
    """Prompts of different lengths, padded on the left, each with one picture of 4 patches, so one feature."""
    rng = np.random.default_rng(seed)
    token = rng.integers(8, 40, (num_prompts, length)).astype(np.int32)
    start = np.arange(num_prompts) % 3
    token[np.arange(num_prompts), start + 1] = IMAGE_TOKEN
    mask = np.arange(length)[None] >= start[:, None]
    position = np.broadcast_to(np.maximum(np.arange(length)[None] - start[:, None], 0), (3, num_prompts, length))
    feature_index = np.where(token == IMAGE_TOKEN, np.arange(num_prompts)[:, None], -1)
    segment = np.repeat(np.arange(1, num_prompts + 1), 4)[None]
    return PromptBatch(
        token,
        mask,
        position.astype(np.int32),
        feature_index.astype(np.int32),
        (length - start).astype(np.int32),
        np.arange(num_prompts, dtype=np.int32),
        PackedVision(
            rng.normal(size=(1, 4 * num_prompts, 1176)).astype(np.float32),
            segment.astype(np.int32),
            np.tile(np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.int32), (num_prompts, 1))[None],
        ),
    )


def make_records(num_records: int) -> list[Record]:
    """Questions whose answer and key steps the pieces above can make."""
    key_steps = (("3+4=7", "7"), ("=7",))
    return [Record(str(n), (), "?", "7", "7", key_steps, "", "sum", "made up") for n in range(num_records)]


def in_rows(prompts: PromptBatch) -> PromptBatch:
    """The same prompts, each one's picture in a row of its own, for several devices to share."""
    vision = prompts.vision
    rows = [
        array.reshape(len(prompts.token_PS), -1, array.shape[-1])
        for array in (vision.patch_ZMC, vision.segment_ZM[..., None], vision.position_ZM2)
    ]
    return dataclasses.replace(prompts, vision=PackedVision(rows[0], rows[1][..., 0], rows[2]))


def take(prompts: PromptBatch, rows: list[int]) -> PromptBatch:
    """Some of the prompts; all pictures stay."""
    return PromptBatch(
        prompts.token_PS[rows],
        prompts.mask_PS[rows],
        prompts.position_3PS[:, rows],
        prompts.feature_index_PS[rows],
        prompts.next_position_P[rows],
        prompts.prompt_id_P[rows],
        prompts.vision,
    )


def make_adapter(definition: Definition, seed: int = 0, scale: float = 0.2):
    """The parameters of the definition's adapter alone, A and B both normal: nothing an adapter does is hidden."""
    adapter, _ = partition(definition.abstract_params(), Model(lora_r=1))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(scale=scale, size=leaf.shape).astype(np.float32), adapter)


def merged_params(params, lora: LoRA):
    """The base with every adapter folded into its matrix, as an export folds them, in the dtypes of `params`."""
    flat = flatten_dict(params, sep=".")
    merged = {path: leaf for path, leaf in flat.items() if not is_adapter(path)}
    for module in (path.removesuffix(".lora_a") for path in flat if path.endswith(".lora_a")):
        kernel = flat[f"{module}.kernel"]
        folded = merge_adapter(kernel, flat[f"{module}.lora_a"], flat[f"{module}.lora_b"], lora.scale)
        merged[f"{module}.kernel"] = folded.astype(kernel.dtype)
    return unflatten_dict(merged, sep=".")


def make_train_batch(num_prompts=4, num_generations=2, length=6, seed=0) -> TrainBatch:
    """A StepGRPO update of random completions, advantages and reference log-probs."""
    rng = np.random.default_rng(seed)
    rows = num_prompts * num_generations
    mask = np.arange(length)[None] < rng.integers(1, length + 1, rows)[:, None]
    completions = Completions(rng.integers(8, 40, (rows, length)).astype(np.int32), mask)
    logp = np.where(mask, -rng.uniform(1, 5, mask.shape), 0).astype(np.float32)
    advantage = np.repeat(rng.normal(size=(rows, 1)), length, axis=1).astype(np.float32)
    return TrainBatch(make_prompts(num_prompts), TrainRows(completions, advantage, logp, logp))
