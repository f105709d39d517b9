"""Tokenizers: round trips, the chat format, end tokens, and the bytes of each token."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from r1vl_jax.data.tokenizer import SPECIAL_TOKENS, byte_table, load_tokenizer, train_tokenizer


@hypothesis.given(strategies.text())
@hypothesis.settings(max_examples=200, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_any_text_survives_a_round_trip(tokenizer, text):
    text = tokenizer.backend_tokenizer.normalizer.normalize_str(text)  # NFC, as Qwen2
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_digits_are_single_tokens(tokenizer):
    assert tokenizer.tokenize("12 345") == ["1", "2", "Ġ", "3", "4", "5"]


@hypothesis.given(strategies.text())
@hypothesis.settings(max_examples=50, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_token_byte_lengths_sum_to_the_length_of_the_text(tokenizer, text):
    ids = tokenizer(text + tokenizer.eos_token)["input_ids"]
    decoded = tokenizer.decode(ids, skip_special_tokens=True)
    size_V = np.diff(byte_table(tokenizer, len(tokenizer) + 3).offset)
    assert size_V[ids].sum() == len(decoded.encode())


def test_special_tokens_are_single(tokenizer):
    for token in SPECIAL_TOKENS:
        assert len(tokenizer(token)["input_ids"]) == 1
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_the_vocabulary_has_the_given_size():
    assert len(train_tokenizer(["one two three four five six seven"] * 3, vocab_size=270)) == 270


def test_training_is_deterministic(path):
    vocabularies = [train_tokenizer([path, "what is it"]).get_vocab() for _ in range(2)]
    assert vocabularies[0] == vocabularies[1]


def test_a_saved_tokenizer_loads_as_it_was(tokenizer, tmp_path, path):
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded(path)["input_ids"] == tokenizer(path)["input_ids"]
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.eos_token_id == tokenizer.eos_token_id


def test_the_chat_format_is_qwens(tokenizer):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which? "}, {"type": "video"}]},
    ]
    assert tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Which? "
        "<|vision_start|><|video_pad|><|vision_end|><|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    answered = [*turns, {"role": "assistant", "content": "This."}]
    assert tokenizer.apply_chat_template(answered, tokenize=False).endswith(
        "<|im_end|>\n<|im_start|>assistant\nThis.<|im_end|>\n"
    )


def test_the_byte_table_equals_decoding(tokenizer):
    table = byte_table(tokenizer)
    rng = np.random.default_rng(0)
    for _ in range(200):
        ids = rng.integers(len(tokenizer), size=20)
        text = b"".join(table.byte[table.offset[i] : table.offset[i + 1]].tobytes() for i in ids)
        assert text.decode("utf-8", "replace") == tokenizer.decode(ids, skip_special_tokens=True)
    assert set(table.byte.tobytes()) == set(range(256))


def test_special_tokens_and_ids_without_a_token_have_no_bytes(tokenizer):
    table = byte_table(tokenizer, vocab_size=len(tokenizer) + 5)
    assert len(table.offset) == len(tokenizer) + 6
    without = [*tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)), *range(len(tokenizer), len(tokenizer) + 5)]
    assert all(table.offset[i] == table.offset[i + 1] for i in without)


def test_a_vocabulary_smaller_than_the_tokenizer_is_refused(tokenizer):
    with pytest.raises(
        ValueError, match=r"expected vocab_size to cover the tokenizer's \d+ ids, got 10; give the model's"
    ):
        byte_table(tokenizer, vocab_size=10)


def test_a_tokenizer_that_is_no_byte_level_bpe_is_refused():
    class WordPiece:
        added_tokens_decoder: dict = {}

        def get_vocab(self):
            return {"日本": 0}

    with pytest.raises(
        ValueError, match="token 0, '日本', has the character '日', which stands for no byte; expected a byte"
    ):
        byte_table(WordPiece())
