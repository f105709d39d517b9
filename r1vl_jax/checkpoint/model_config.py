"""The configuration of a run's model, validated against its tokenizer."""

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
_GENERATION_CONFIG = "generation_config.json"
_EOS = "eos_token_id"


def model_config(model: config.Model, tokenizer: PreTrainedTokenizerBase) -> Config:
    """The configuration of the weights in `model.path`; without weights a preset with the tokenizer's vocabulary.

    Raises:
        ValueError: the tokenizer does not belong to the weights; lists all differences.
    """
    if not model.path:
        ids = {name: int(tokenizer.get_vocab()[token]) for name, token in _TOKENS.items()}
        return dataclasses.replace(preset(model.preset), vocab_size=len(tokenizer), **ids)
    directory = local_directory(model.path)
    content = read_json(directory, "config.json")
    generation = read_json(directory, _GENERATION_CONFIG) if (directory / _GENERATION_CONFIG).is_file() else {}
    config_of_weights = from_hf(content)
    faults = [
        *_vocabulary_faults(config_of_weights, tokenizer),
        # Not of `text_config`, where transformers writes its default ids whatever the tokenizer.
        *_special_id_faults("config.json", content, tokenizer),
        *_special_id_faults(_GENERATION_CONFIG, generation, tokenizer),
    ]
    if faults:
        raise ValueError(
            f"{model.path}: the tokenizer is not the one of config.json and {_GENERATION_CONFIG}; put the files of one"
            " checkpoint there:\n  " + "\n  ".join(faults)
        )
    return config_of_weights


def expected_config(model: config.Model) -> Config:
    """The configuration of weights that may not be there yet: of `model.path` if it exists, else of `model.preset`.

    Raises:
        ValueError: `path` does not exist and `preset` is "tiny", a size without published weights.
    """
    if model.path and (Path(model.path) / "config.json").is_file():
        return from_hf(read_json(Path(model.path), "config.json"))
    if model.path and model.preset.endswith("tiny"):
        raise ValueError(
            f"config.model.path={model.path!r} has no config.json, and config.model.preset={model.preset!r} is no size"
            " of published weights; put the weights there, or name their size: --config.model.preset=7b"
        )
    return preset(model.preset)


def _vocabulary_faults(model: Config, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Differences between the vocabularies of the model and of the tokenizer."""
    id_of_token = tokenizer.get_vocab()
    for name, token in _TOKENS.items():
        expected, got = getattr(model, name), id_of_token.get(token, "no token")
        if got != expected:
            yield f"{name}: config.json has {expected}, the tokenizer has {got} for {token}"
    if (largest := max(id_of_token.values())) >= model.vocab_size:
        yield f"vocab_size: config.json has {model.vocab_size} rows, the tokenizer has ids up to {largest}"
    if not end_tokens(tokenizer):
        yield f"{_EOS}: expected an eos_token or {END_OF_TEXT} in the tokenizer, got neither"


def _special_id_faults(file: str, content: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Special token ids without a token, and an `eos_token_id` without any of the tokenizer's end tokens."""
    known = set(tokenizer.get_vocab().values())
    for name in (_EOS, "pad_token_id", "bos_token_id"):
        if (value := content.get(name)) is None:
            continue
        listed = value if isinstance(value, list) and name == _EOS else [value]
        unknown = [each for each in listed if type(each) is not int or each not in known]
        if unknown:
            yield f"{name}: {file} has {unknown}, expected ids of the tokenizer, integers from 0 to {max(known)}"
        ends = end_tokens(tokenizer)
        if name == _EOS and not any(each in listed for each in ends.values()):
            tokens = " or ".join(f"{each} for {token}" for token, each in ends.items())
            yield f"{name}: {file} has {value!r}, expected {tokens} among them, or completions would not end"
