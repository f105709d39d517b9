"""Prompts that begin alike are read once, and answered as if they were read anew."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers.chat_model import write_chat_model
from PIL import Image

import r1vl_jax
from r1vl_jax.chat.generation import Settings
from r1vl_jax.chat.prefix_reuse import PrefixReuse
from r1vl_jax.data.turns import Conversation, Video, make_turn
from r1vl_jax.models.qwen2_vl import chunked

NOISE = np.random.default_rng(0)
PICTURES = [Image.fromarray(NOISE.integers(0, 255, (112, 112, 3), np.uint8)) for _ in range(3)]
LONG = "How many squares are there? What is the value? " * 60
SETTINGS = Settings(max_new_tokens=8)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    write_chat_model(directory)
    return r1vl_jax.load(str(directory))


def encode(model, *texts: str, images=()):
    """A conversation of the user's and the assistant's texts by turns."""
    turns = [make_turn(("user", "assistant")[number % 2], text) for number, text in enumerate(texts)]
    return model.prompter.encode(Conversation(turns, list(images)))


def anew(model, prompts) -> list[list[int]]:
    return [answer.token_ids for (answer,) in model.answer(prompts, SETTINGS)]


def check(model, reuse, prompts):
    """Answers with reuse are those of reading anew."""
    answers = [answer.token_ids for (answer,) in model.answer(prompts, SETTINGS, reuse)]
    assert answers == anew(model, prompts)


def test_a_conversation_that_grows_is_read_from_where_it_grows(model):
    reuse = PrefixReuse(2, 2048)
    texts = [f"<image>{LONG}", f"<image>{LONG}!"]
    check(model, reuse, [encode(model, text, images=[image]) for text, image in zip(texts, PICTURES, strict=False)])
    assert reuse.num_reused == 0
    grown = [
        encode(model, texts[0], "Four.", "And 1 + 1?", images=PICTURES[:1]),
        encode(model, texts[1], "Five squares.", "What is the value?", images=PICTURES[1:2]),
    ]
    before = reuse.num_tokens
    check(model, reuse, grown)
    assert reuse.num_reused > 0.7 * (reuse.num_tokens - before)
    assert (reuse.num_pictures, reuse.num_reused_pictures) == (4, 2)


def test_rows_may_come_in_another_order_and_number(model):
    reuse = PrefixReuse(3, 2048)
    starts = [f"{number} <image>{LONG}" for number in range(3)]
    check(model, reuse, [encode(model, text, images=[image]) for text, image in zip(starts, PICTURES, strict=True)])
    check(model, reuse, [encode(model, starts[n], "1.", "Why?", images=[PICTURES[n]]) for n in (2, 0)])
    assert reuse.num_reused > 1000
    check(model, reuse, [encode(model, starts[1], "2.", LONG, images=[PICTURES[1]])])


def test_another_picture_in_the_same_place_is_another_prompt(model):
    reuse = PrefixReuse(1, 2048)
    check(model, reuse, [encode(model, f"{LONG}<image>{LONG}", images=PICTURES[:1])])
    check(model, reuse, [encode(model, f"{LONG}<image>{LONG}", images=PICTURES[1:2])])
    assert 0 < reuse.num_reused < reuse.num_tokens / 4  # the text before the picture
    assert reuse.num_reused_pictures == 0


def test_a_picture_at_the_end_is_not_seen_by_the_tower_again(model, monkeypatch):
    reuse, seen = PrefixReuse(1, 2048), []
    features = chunked.image_features
    check(model, reuse, [encode(model, f"{LONG}<image>", images=PICTURES[:1])])
    monkeypatch.setattr(chunked, "image_features", lambda model, vision: seen.append(vision) or features(model, vision))
    jax.clear_caches()
    prompt = encode(model, f"{LONG} What is the value? <image>", images=PICTURES[:1])
    answers = model.answer([prompt], SETTINGS, reuse)
    assert reuse.num_reused_pictures == 1
    assert reuse.num_reused > 500
    assert [answer.token_ids for (answer,) in answers] == anew(model, [prompt])


def test_the_same_prompt_again_reads_its_last_tokens_alone(model):
    reuse, prompt = PrefixReuse(2, 1024), encode(model, f"<image>{LONG}", images=PICTURES[:1])
    check(model, reuse, [prompt, prompt])
    check(model, reuse, [prompt])
    assert reuse.num_reused >= len(prompt.token_S) - 128


def test_rows_that_were_used_longest_ago_are_dropped(model):
    reuse = PrefixReuse(1, 1024)  # two rows
    prompts = [encode(model, f"{number} {LONG}") for number in range(3)]
    for prompt in prompts:
        check(model, reuse, [prompt])
    before = reuse.num_reused
    check(model, reuse, [prompts[0]])
    assert reuse.num_reused == before
    check(model, reuse, [prompts[2]])
    assert reuse.num_reused > before


def test_what_does_not_fit_is_read_anew(model):
    reuse = PrefixReuse(1, 128)
    check(model, reuse, [encode(model, LONG)])  # too long
    check(model, reuse, [encode(model, "a"), encode(model, "b")])  # too many
    film = Video([image.resize((56, 56)) for image in PICTURES[:2]], 2.0)
    prompt = model.prompter.encode(Conversation([make_turn("user", "<video>?")], [], [film]))
    check(model, reuse, [prompt])
    assert reuse.num_tokens == 0
    with pytest.raises(ValueError, match="a multiple of 128 tokens, got 1, 100"):
        PrefixReuse(1, 100)


def test_sampled_answers_are_the_same_too(model):
    settings = dataclasses.replace(SETTINGS, temperature=1.0, n=2, seed=3)
    reuse, prompt = PrefixReuse(1, 1024), encode(model, LONG)
    model.answer([prompt], settings, reuse)
    again = model.answer([encode(model, LONG, "1.", "Why?")], settings, reuse)
    assert again == model.answer([encode(model, LONG, "1.", "Why?")], settings)
    assert reuse.num_reused > 300
