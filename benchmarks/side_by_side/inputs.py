"""Writes the checkpoint, prompts and arrays that all sides read, so that no side needs another's libraries."""

import base64
import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from PIL import Image
from transformers import PreTrainedTokenizerBase

from benchmarks.side_by_side.work import COPIES, Work
from r1vl_jax.checkpoint.hf.export import MAX_SHARD_SIZE, write_weights
from r1vl_jax.checkpoint.hf.files import write_files
from r1vl_jax.data.chat_format import eos_token_ids
from r1vl_jax.data.digits.puzzles import KINDS
from r1vl_jax.data.images import load_image_processor
from r1vl_jax.data.processor import Processor
from r1vl_jax.data.prompts import encode
from r1vl_jax.data.records import IMAGE_PLACEHOLDER, Record, write_splits
from r1vl_jax.data.tokenizer import (
    IMAGE_TOKEN,
    SPECIAL_TOKENS,
    VIDEO_TOKEN,
    VISION_END,
    VISION_START,
    VISION_TOKENS,
    load_tokenizer,
    train_tokenizer,
)
from r1vl_jax.models.presets import PRESETS
from r1vl_jax.models.qwen2_vl.config import Config, VisionConfig
from r1vl_jax.models.qwen2_vl.model import Definition

IMAGE_SIDE = 224  # pixels
NUM_TEXT_TOKENS = 40  # per prompt, the chat template's included

_PIXELS = {"min_pixels": 28 * 28, "max_pixels": 400_000}
_MIN_VOCABULARY = 512
_SIZES = {
    "tiny": Config(
        vocab_size=_MIN_VOCABULARY,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        vision=VisionConfig(depth=2, embed_dim=64, num_heads=2),
        tie_word_embeddings=True,
        mrope_section=(4, 6, 6),
    ),
    "small": Config(
        vocab_size=16_384,
        hidden_size=512,
        intermediate_size=1_408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
        vision=VisionConfig(depth=4, embed_dim=256, num_heads=4),
        tie_word_embeddings=True,
        mrope_section=(8, 12, 12),
    ),
}
SIZES = _SIZES | {name: PRESETS[name] for name in ("2b", "7b")}


def write_inputs(work: Work) -> None:
    """Writes the checkpoint, unless it exists, then prompts, arrays and settings."""
    work.directory.mkdir(parents=True, exist_ok=True)
    if not work.model.exists():
        _write_checkpoint(work)
    processor = Processor(load_tokenizer(work.model), load_image_processor(str(work.model), **_PIXELS))
    records = list(_records(processor, work.num_prompts))
    if not work.data.exists():
        copies = [dataclasses.replace(r, id=f"{r.id}-{n}") for n in range(COPIES) for r in records]
        write_splits(work.data, {"train": copies, "test": records}, settings={})
    arrays: dict[str, Any] = _inputs(records, processor, work)
    np.savez(work.inputs, **arrays)
    texts = [
        (record.problem.removeprefix(IMAGE_PLACEHOLDER), base64.b64encode(record.images[0]).decode())
        for record in records
    ]
    work.texts.write_text(json.dumps(texts))
    work.write()


def _inputs(records: list[Record], processor: Processor, work: Work) -> dict[str, np.ndarray]:
    """The prompts under Hugging Face's names, and further inputs.

    `suppressed` are tokens that are never sampled; `check_tokens` [B, T] are completions whose log-probabilities every
    side computes, as a check.
    """
    prompts = [encode(record, processor, max_prompt_length=10_000) for record in records]
    token_PS = np.stack([prompt.token_S for prompt in prompts]).astype(np.int64)
    images = [image for prompt in prompts for image in prompt.images]
    ids = processor.tokenizer.get_vocab()
    first_text_token, shape = len(SPECIAL_TOKENS), (work.num_rows, work.new_tokens)
    return {
        "input_ids": token_PS,
        "attention_mask": np.ones_like(token_PS),
        "mm_token_type_ids": processor.types(token_PS),
        "pixel_values": np.concatenate([patches for patches, _ in images]),
        "image_grid_thw": np.array([grid for _, grid in images], np.int64),
        "suppressed": np.array([ids[token] for token in VISION_TOKENS]),
        "check_tokens": np.random.default_rng(1).integers(first_text_token, len(processor.tokenizer), shape),
    }


def _write_checkpoint(work: Work) -> None:
    sizes, unfinished = SIZES[work.size], work.model.with_name(f".{work.model.name}-unfinished")
    unfinished.mkdir(exist_ok=True)
    tokenizer = _tokenizer(unfinished, sizes.vocab_size)
    ids = tokenizer.get_vocab()
    sizes = dataclasses.replace(
        sizes,
        image_token_id=ids[IMAGE_TOKEN],
        video_token_id=ids[VIDEO_TOKEN],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
    )
    ends = eos_token_ids(tokenizer)
    write_files(unfinished, sizes, tokenizer, eos_token_ids=ends, dtype="float32", **_PIXELS)
    write_weights(unfinished, sizes, _Weights(sizes), dtype="float32", max_shard_size=MAX_SHARD_SIZE)
    unfinished.rename(work.model)


def _tokenizer(directory: Path, vocab_size: int) -> PreTrainedTokenizerBase:
    """A tokenizer trained as the embedded task's is; unused tokens fill the vocabulary."""
    rng = np.random.default_rng(0)
    texts = [" ".join(kind.draw(rng, 2).steps) for kind in KINDS * 40]
    tokenizer = train_tokenizer(texts, vocab_size=_MIN_VOCABULARY)
    tokenizer.save_pretrained(directory)
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    content["model"]["vocab"] |= {f"filler{number}": number for number in range(len(tokenizer), vocab_size)}
    path.write_text(json.dumps(content), "utf-8")
    return load_tokenizer(directory)


class _Weights:
    """Random parameters by path, scaled so that activations and logits are of order 1."""

    def __init__(self, sizes: Config):
        self._leaves: dict[Any, Any] = flatten_dict(Definition(sizes).abstract_params(), sep=".")
        self._rng = np.random.default_rng(0)

    def __call__(self, path: str) -> Any:
        shape, kind = self._leaves[path].shape, path.rpartition(".")[2]
        if kind == "scale":
            return np.ones(shape, np.float32)
        if kind == "bias":
            return np.zeros(shape, np.float32)
        fan_in = shape[-1] if kind == "embedding" else shape[-2]
        return self._rng.standard_normal(shape, np.float32) * np.float32(fan_in**-0.5)


def _records(processor: Processor, num_records: int) -> Iterator[Record]:
    """Questions made of digits, each of which is a token, about images of noise."""
    rng = np.random.default_rng(0)
    for number in range(num_records):
        image = io.BytesIO()
        Image.fromarray(rng.integers(256, size=(IMAGE_SIDE, IMAGE_SIDE, 3), dtype=np.uint8)).save(image, "PNG")
        record = Record(
            str(number), (image.getvalue(),), IMAGE_PLACEHOLDER, "7", "7", (("7",),), "", "digits", "random"
        )
        num_template_tokens = int((encode(record, processor, max_prompt_length=10_000).type_S == 0).sum())
        digits = "".join(map(str, rng.integers(10, size=NUM_TEXT_TOKENS - num_template_tokens)))
        yield dataclasses.replace(record, problem=IMAGE_PLACEHOLDER + digits)
