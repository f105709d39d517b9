"""The sizes of a run's model, and whether its tokenizer belongs to them."""

import dataclasses
from collections.abc import Iterator

from transformers import PreTrainedTokenizerBase

from r1vl_jax import config
from r1vl_jax.checkpoint.hf_import import read_config
from r1vl_jax.data import vocabulary
from r1vl_jax.models.presets import preset
from r1vl_jax.models.qwen2_vl.config import Config

_TOKENS = {
    "image_token_id": vocabulary.IMAGE_TOKEN,
    "video_token_id": vocabulary.VIDEO_TOKEN,
    "vision_start_token_id": vocabulary.VISION_START,
    "vision_end_token_id": vocabulary.VISION_END,
}


def model_config(model: config.Model, tokenizer: PreTrainedTokenizerBase) -> Config:
    """Those of the weights in `model.path`; without weights those of a preset, fitted to the tokenizer.

    Raises:
        ValueError: the tokenizer is not the one of the weights; lists all that differs.
    """
    if not model.path:
        ids = {name: int(tokenizer.get_vocab()[token]) for name, token in _TOKENS.items()}
        return dataclasses.replace(preset(model.preset), vocab_size=len(tokenizer), **ids)
    sizes = read_config(model.path)
    if faults := list(_disagreements(sizes, tokenizer)):
        raise ValueError(
            f"{model.path}: the tokenizer is not the one of config.json; put both files of one checkpoint there:\n  "
            + "\n  ".join(faults)
        )
    return sizes


def _disagreements(sizes: Config, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    vocabulary_ids = tokenizer.get_vocab()
    for name, token in _TOKENS.items():
        expected, got = getattr(sizes, name), vocabulary_ids.get(token, "no token")
        if got != expected:
            yield f"{name}: config.json has {expected}, the tokenizer has {got} for {token}"
    if (largest := max(vocabulary_ids.values())) >= sizes.vocab_size:
        yield f"vocab_size: config.json has {sizes.vocab_size} rows, the tokenizer has ids up to {largest}"
