"""Sizes of a run's model: those of its weights, or of a preset fitted to the tokenizer; a foreign one is refused."""

import json
from pathlib import Path

import pytest

from r1vl_jax.checkpoint.hf_config import from_hf, to_hf
from r1vl_jax.checkpoint.model_config import model_config
from r1vl_jax.config import Model
from r1vl_jax.data import vocabulary
from r1vl_jax.models.presets import PRESETS


@pytest.fixture(scope="module")
def tokenizer():
    return vocabulary.train_tokenizer(["some text to learn from"], vocab_size=300)


def test_a_preset_is_fitted_to_the_tokenizer(tokenizer):
    sizes = model_config(Model(preset="tiny"), tokenizer)
    assert sizes.vocab_size == len(tokenizer)
    assert tokenizer.convert_ids_to_tokens(sizes.image_token_id) == "<|image_pad|>"
    assert tokenizer.convert_ids_to_tokens(sizes.vision_end_token_id) == "<|vision_end|>"
    assert sizes.hidden_size == PRESETS["tiny"].hidden_size


def test_sizes_of_weights(tokenizer, tmp_path: Path):
    sizes = model_config(Model(preset="tiny"), tokenizer)
    (tmp_path / "config.json").write_text(json.dumps(to_hf(sizes)))
    assert model_config(Model(path=str(tmp_path)), tokenizer) == sizes


def test_all_disagreements_with_the_tokenizer_are_listed(tokenizer, tmp_path: Path):
    content = to_hf(model_config(Model(preset="tiny"), tokenizer))
    expected = content["image_token_id"]
    content |= {"image_token_id": 7, "vision_start_token_id": 9, "vocab_size": 200}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="the tokenizer is not the one of config.json; put both files of one") as error:
        model_config(Model(path=str(tmp_path)), tokenizer)
    start = tokenizer.convert_tokens_to_ids("<|vision_start|>")
    assert str(error.value).splitlines()[1:] == [
        f"  image_token_id: config.json has 7, the tokenizer has {expected} for <|image_pad|>",
        f"  vision_start_token_id: config.json has 9, the tokenizer has {start} for <|vision_start|>",
        f"  vocab_size: config.json has 200 rows, the tokenizer has ids up to {len(tokenizer) - 1}",
    ]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_written_config_reads_back(preset: str):
    assert from_hf(json.loads(json.dumps(to_hf(PRESETS[preset])))) == PRESETS[preset]
