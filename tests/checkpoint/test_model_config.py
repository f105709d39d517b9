"""The configuration of a run's model: of its weights, or of a preset with the tokenizer's vocabulary."""

import json
from pathlib import Path

import pytest

from r1vl_jax.checkpoint.hf.config import from_hf, to_hf
from r1vl_jax.checkpoint.model_config import expected_config, model_config
from r1vl_jax.config import Model
from r1vl_jax.data.tokenizer import train_tokenizer
from r1vl_jax.models.presets import PRESETS


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["some text to learn from"], vocab_size=300)


def test_a_preset_takes_the_vocabulary_of_the_tokenizer(tokenizer):
    sizes = model_config(Model(preset="tiny"), tokenizer)
    assert sizes.vocab_size == len(tokenizer)
    assert tokenizer.convert_ids_to_tokens(sizes.image_token_id) == "<|image_pad|>"
    assert tokenizer.convert_ids_to_tokens(sizes.vision_end_token_id) == "<|vision_end|>"
    assert sizes.hidden_size == PRESETS["tiny"].hidden_size


def test_the_configuration_of_weights(tokenizer, tmp_path: Path):
    sizes = model_config(Model(preset="tiny"), tokenizer)
    (tmp_path / "config.json").write_text(json.dumps(to_hf(sizes)))
    assert model_config(Model(path=str(tmp_path)), tokenizer) == sizes


def test_all_differences_from_the_tokenizer_are_listed(tokenizer, tmp_path: Path):
    content = to_hf(model_config(Model(preset="tiny"), tokenizer))
    expected = content["image_token_id"]
    content |= {"image_token_id": 7, "vision_start_token_id": 9, "vocab_size": 200}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="the tokenizer is not the one of config.json and generation") as error:
        model_config(Model(path=str(tmp_path)), tokenizer)
    start = tokenizer.convert_tokens_to_ids("<|vision_start|>")
    assert str(error.value).splitlines()[1:] == [
        f"  image_token_id: config.json has 7, the tokenizer has {expected} for <|image_pad|>",
        f"  vision_start_token_id: config.json has 9, the tokenizer has {start} for <|vision_start|>",
        f"  vocab_size: config.json has 200 rows, the tokenizer has ids up to {len(tokenizer) - 1}",
    ]


def _write(directory: Path, tokenizer, *, generation: dict, **entries) -> Model:
    content = to_hf(model_config(Model(preset="tiny"), tokenizer)) | entries
    (directory / "config.json").write_text(json.dumps(content))
    (directory / "generation_config.json").write_text(json.dumps(generation))
    return Model(path=str(directory))


def test_published_end_tokens_are_accepted(tokenizer, tmp_path: Path):
    turn, text = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    # transformers' default, which it writes whatever the tokenizer.
    entries = {"eos_token_id": turn, "bos_token_id": text, "text_config": {"eos_token_id": 151645}}
    for eos in ([turn, text], [turn], turn, text, [5, text], None):
        generation = {"eos_token_id": eos, "bos_token_id": text, "pad_token_id": text}
        model_config(_write(tmp_path, tokenizer, generation=generation, **entries), tokenizer)


def test_unknown_ids_are_listed_with_all_other_differences(tokenizer, tmp_path: Path):
    turn, text = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    last = len(tokenizer) - 1
    model = _write(
        tmp_path,
        tokenizer,
        generation={"eos_token_id": [turn, 99999, "2", True], "pad_token_id": -1},
        eos_token_id=7,
        bos_token_id=151643,
        image_token_id=8,
    )
    with pytest.raises(ValueError, match="put the files of one checkpoint there") as error:
        model_config(model, tokenizer)
    lines = str(error.value).splitlines()[1:]
    assert lines[0].startswith("  image_token_id: config.json has 8")
    assert lines[1:] == [
        f"  eos_token_id: config.json has 7, expected {turn} for <|im_end|> or {text} for <|endoftext|> among them,"
        " or completions would not end",
        f"  bos_token_id: config.json has [151643], expected ids of the tokenizer, integers from 0 to {last}",
        "  eos_token_id: generation_config.json has [99999, '2', True], expected ids of the tokenizer, integers from 0"
        f" to {last}",
        f"  pad_token_id: generation_config.json has [-1], expected ids of the tokenizer, integers from 0 to {last}",
    ]


@pytest.mark.parametrize("eos", [99999, "2", [], {"id": 2}, 1.5])
def test_end_tokens_that_cannot_be_sampled_are_refused(tokenizer, tmp_path: Path, eos: object):
    model = _write(tmp_path, tokenizer, generation={"eos_token_id": eos})
    with pytest.raises(ValueError, match=r"eos_token_id: generation_config\.json has .* completions would not end"):
        model_config(model, tokenizer)


def test_a_broken_generation_config_is_named(tokenizer, tmp_path: Path):
    model = _write(tmp_path, tokenizer, generation={})
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"generation_config\.json: expected JSON, got something else"):
        model_config(model, tokenizer)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_written_config_reads_back(preset: str):
    assert from_hf(json.loads(json.dumps(to_hf(PRESETS[preset])))) == PRESETS[preset]


def test_the_configuration_of_weights_that_are_not_there_yet(tokenizer, tmp_path: Path):
    assert expected_config(Model(path="runs/later", preset="7b")) == PRESETS["7b"]
    with pytest.raises(ValueError, match=r"config.model.path='runs/later' has no config.json, and .*preset='tiny'"):
        expected_config(Model(path="runs/later"))
    sizes = model_config(Model(preset="tiny"), tokenizer)
    (tmp_path / "config.json").write_text(json.dumps(to_hf(sizes)))
    assert expected_config(Model(path=str(tmp_path), preset="7b")) == sizes
