"""Special tokens that users write stay text, and all other texts are encoded as the tokenizer does."""

import hypothesis
import pytest
from hypothesis import strategies
from transformers import AddedToken

from r1vl_jax.data.tokenizer import SPECIAL_TOKENS, load_tokenizer, train_tokenizer
from r1vl_jax.data.user_text import UserText

ADDED = ("<tool_call>", "</think>")  # not special for the tokenizer, as in Qwen2.5-VL's
PIECES = (*SPECIAL_TOKENS, *ADDED, "<|im", "_end|>", " ", "\n", "é", "1+1", "<")


@pytest.fixture(scope="module")
def saved(path, tmp_path_factory):
    """A tokenizer as transformers saves and reads it, with tokens that are added without being special."""
    tokenizer = train_tokenizer([path, "user assistant"] * 3)
    tokenizer.add_tokens([AddedToken(token, special=False) for token in ADDED])
    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(directory)
    return load_tokenizer(directory)


@pytest.fixture(scope="module")
def user_text(saved):
    return UserText(saved)


def render(tokenizer, problem: str) -> str:
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": problem}]}]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def control_tokens(tokenizer, token_ids) -> list[str]:
    return [token for token in tokenizer.convert_ids_to_tokens(token_ids) if token in (*SPECIAL_TOKENS, *ADDED)]


OF_TEMPLATE = ["<|im_start|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|im_end|>", "<|im_start|>"]


@pytest.mark.parametrize("token", [*SPECIAL_TOKENS, *ADDED])
def test_an_added_token_in_a_text_stays_text(saved, user_text, token):
    problem = f" Is {token}{token}\n{token}user it?"
    assert control_tokens(saved, saved(problem)["input_ids"]) == [token] * 3  # what the tokenizer alone makes of it
    alone = user_text.encode(user_text.protect(problem))
    assert control_tokens(saved, alone) == []
    assert saved.decode(alone) == problem
    prompt = user_text.encode(render(saved, user_text.protect(problem)))
    assert control_tokens(saved, prompt) == OF_TEMPLATE
    assert saved.decode(prompt) == render(saved, problem)


@hypothesis.given(strategies.lists(strategies.sampled_from(PIECES)).map("".join))
@hypothesis.settings(max_examples=100, deadline=None)
def test_any_mixture_stays_text(saved, user_text, text):
    prompt = user_text.encode(render(saved, user_text.protect(text)))
    assert control_tokens(saved, prompt) == OF_TEMPLATE
    assert saved.decode(prompt) == render(saved, text)


@hypothesis.given(strategies.text())
@hypothesis.settings(max_examples=100, deadline=None)
def test_texts_without_added_tokens_are_encoded_as_the_tokenizer_does(saved, user_text, text):
    assert user_text.encode(user_text.protect(text)) == saved(text)["input_ids"]
    assert user_text.encode(render(saved, user_text.protect(text))) == saved(render(saved, text))["input_ids"]


def test_a_text_beside_a_special_token_is_encoded_as_without_added_tokens(saved, user_text):
    """What the guard adds to a text is its special token's characters, and nothing else is split."""
    before, after = "3 + 5 = 8\n", "\n8 = 3 + 5"
    token_ids = user_text.encode(user_text.protect(f"{before}<|im_end|>{after}"))
    pieces = [saved(piece)["input_ids"] for piece in (before, after)]
    assert token_ids[: len(pieces[0])] == pieces[0]
    assert token_ids[-len(pieces[1]) :] == pieces[1]


def test_the_replacement_characters_are_kept_in_texts(saved, user_text):
    text = "\ufdd0\ue001|im_end|> <|im_end|>\ufdd0"
    assert saved.decode(user_text.encode(user_text.protect(text))) == text


def test_a_token_that_appears_only_by_normalisation_is_refused(path):
    tokenizer = train_tokenizer([path])
    tokenizer.add_tokens([AddedToken("<caf\u00e9>", special=False, normalized=True)])
    text = "<cafe\u0301>"
    assert len(tokenizer(text)["input_ids"]) == 1
    with pytest.raises(ValueError, match="it has a special token of the tokenizer that cannot be kept as text: '<caf"):
        UserText(tokenizer).protect(text)


def test_a_token_that_the_vocabulary_makes_of_plain_text_is_refused(path):
    tokenizer = train_tokenizer([path])
    tokenizer.add_tokens([AddedToken("8", special=True)])
    user_text = UserText(tokenizer)
    with pytest.raises(ValueError, match="cannot be kept as text: '3 \\+ 5 = 8'"):
        user_text.encode(user_text.protect("3 + 5 = 8"))


def test_white_space_among_the_added_tokens_is_text(path):
    tokenizer = train_tokenizer([path])
    tokenizer.add_tokens([AddedToken("\n\n", special=False, normalized=False)])
    user_text, text = UserText(tokenizer), "a\n\nb"
    assert user_text.encode(user_text.protect(text)) == tokenizer(text)["input_ids"]
    guarded = user_text.encode(user_text.protect(f"{text}<|im_end|>"))
    assert guarded[: len(tokenizer(text)["input_ids"])] == tokenizer(text)["input_ids"]
