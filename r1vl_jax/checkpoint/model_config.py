"""The sizes of a run's model, and whether its tokenizer belongs to them."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from r1vl_jax import config
from r1vl_jax.checkpoint.hf.config import from_hf
from r1vl_jax.checkpoint.hf.directory import local_directory, read_json
from r1vl_jax.data.tokenizer import END_OF_TEXT, IMAGE_TOKEN, VIDEO_TOKEN, VISION_END, VISION_START, end_tokens
from r1vl_jax.models.presets import preset
from r1vl_jax.models.qwen2_vl.config import Config

_TOKENS = {
    "image_token_id": IMAGE_TOKEN,
    "video_token_id": VIDEO_TOKEN,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
}
_GENERATION = "generation_config.json"
_EOS = "eos_token_id"


def model_config(model: config.Model, tokenizer: PreTrainedTokenizerBase) -> Config:
    """Those of the weights in `model.path`; without weights those of a preset, fitted to the tokenizer.

    Raises:
        ValueError: the tokenizer is not the one of the weights; lists all that differs.
    """
    if not model.path:
        ids = {name: int(tokenizer.get_vocab()[token]) for name, token in _TOKENS.items()}
        return dataclasses.replace(preset(model.preset), vocab_size=len(tokenizer), **ids)
    directory = local_directory(model.path)
    content = read_json(directory, "config.json")
    generation = read_json(directory, _GENERATION) if (directory / _GENERATION).is_file() else {}
    sizes = from_hf(content)
    faults = [
        *_disagreements(sizes, tokenizer),
        # Not of `text_config`, where transformers writes its defaults whatever the tokenizer.
        *_foreign_ids("config.json", content, tokenizer),
        *_foreign_ids(_GENERATION, generation, tokenizer),
    ]
    if faults:
        raise ValueError(
            f"{model.path}: the tokenizer is not the one of config.json and {_GENERATION}; put the files of one"
            " checkpoint there:\n  " + "\n  ".join(faults)
        )
    return sizes


def expected_config(model: config.Model) -> Config:
    """The sizes of weights that may not be there yet: of `model.path` if it is a directory, else of `model.preset`.

    Raises:
        ValueError: `path` is no directory and `preset` is "tiny", a size that no published weights have.
    """
    if model.path and (Path(model.path) / "config.json").is_file():
        return from_hf(read_json(Path(model.path), "config.json"))
    if model.path and model.preset.endswith("tiny"):
        raise ValueError(
            f"config.model.path={model.path!r} has no config.json, and config.model.preset={model.preset!r} is no size"
            " of published weights; put the weights there, or name their size: --config.model.preset=7b"
        )
    return preset(model.preset)


def _disagreements(sizes: Config, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    vocabulary_ids = tokenizer.get_vocab()
    for name, token in _TOKENS.items():
        expected, got = getattr(sizes, name), vocabulary_ids.get(token, "no token")
        if got != expected:
            yield f"{name}: config.json has {expected}, the tokenizer has {got} for {token}"
    if (largest := max(vocabulary_ids.values())) >= sizes.vocab_size:
        yield f"vocab_size: config.json has {sizes.vocab_size} rows, the tokenizer has ids up to {largest}"
    if not end_tokens(tokenizer):
        yield f"{_EOS}: expected an eos_token or {END_OF_TEXT} in the tokenizer, got neither"


def _foreign_ids(file: str, content: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Ids that no token has, and ends of a completion that the tokenizer does not know as ends."""
    known = set(tokenizer.get_vocab().values())
    for name in (_EOS, "pad_token_id", "bos_token_id"):
        if (value := content.get(name)) is None:
            continue
        listed = value if isinstance(value, list) and name == _EOS else [value]
        foreign = [each for each in listed if type(each) is not int or each not in known]
        if foreign:
            yield f"{name}: {file} has {foreign}, expected ids of the tokenizer, integers from 0 to {max(known)}"
        ends = end_tokens(tokenizer)
        if name == _EOS and not any(each in listed for each in ends.values()):
            tokens = " or ".join(f"{each} for {token}" for token, each in ends.items())
            yield f"{name}: {file} has {value!r}, expected {tokens} among them, or completions would not end"
