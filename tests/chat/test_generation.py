"""Greedy answers are those of transformers' `generate`, token by token; sampled ones depend on the seed alone."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.chat_model import write_chat_model
from helpers.twins import ARCHITECTURES
from PIL import Image
from transformers import AutoTokenizer, PreTrainedModel, Qwen2VLImageProcessorPil

import r1vl_jax
from r1vl_jax.chat.messages import read_prompt
from r1vl_jax.chat.pretrained import Pretrained
from r1vl_jax.data.processor import Processor


@functools.cache
def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(256, size=(height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def architecture(request: pytest.FixtureRequest) -> str:
    return getattr(request, "param", "qwen2_vl")


@pytest.fixture(scope="module")
def directory(architecture: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp(architecture)


@pytest.fixture(scope="module")
def torch_model(directory: Path, architecture: str) -> PreTrainedModel:
    return write_chat_model(directory, architecture)


@pytest.fixture(scope="module")
def model(directory: Path, torch_model: PreTrainedModel) -> Pretrained:
    return r1vl_jax.load(str(directory))


def answer_of_transformers(
    directory: Path, torch_model: PreTrainedModel, messages, images, videos=(), **settings
) -> list[int]:
    """Everything is read from the checkpoint, and the prompt stands alone in its batch."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    processor = Processor(tokenizer, Qwen2VLImageProcessorPil.from_pretrained(directory))
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = processor([text], images=[images], videos=[videos])
    with torch.no_grad():
        sequences = torch_model.generate(
            **{name: torch.as_tensor(array) for name, array in inputs.items()}, do_sample=False, **settings
        )
    return sequences[0, inputs["input_ids"].shape[1] :].tolist()


def user(*parts: str) -> dict:
    content = [{"type": "image"} if part == "<image>" else {"type": "text", "text": part} for part in parts]
    return {"role": "user", "content": content}


PROMPTS = {  # prompt -> its pictures, and the messages that transformers is given
    "How many?": ([(60, 90)], [user("<image>", "How many?")]),
    "Is <image> like <image>?": ([(200, 50), (28, 28)], [user("Is ", "<image>", " like ", "<image>", "?")]),
    "1 + 1 = ?": ([], [user("1 + 1 = ?")]),
    "Which of these is it? " * 9: ([(300, 420)], [user("<image>", "Which of these is it? " * 9)]),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES, indirect=True)
def test_greedy_answers_are_those_of_transformers(directory: Path, torch_model: PreTrainedModel, model: Pretrained):
    """Pictures of several sizes, a text alone, and a conversation, in one batch."""
    images = [[picture(*size) for size in sizes] for sizes, _ in PROMPTS.values()]
    system, turns = {"role": "system", "content": "Be brief."}, [{"role": "assistant", "content": "A value."}]
    turns += [user("And the squares?")]
    pictured = {"role": "user", "content": [{"type": "image", "image": picture(60, 90)}, *user("What?")["content"]]}
    answers = model.generate([*PROMPTS, [system, pictured, *turns]], [*images, None], max_new_tokens=24)
    asked = [messages for _, messages in PROMPTS.values()] + [[system, user("<image>", "What?"), *turns]]
    for answer, pictures, messages in zip(answers, [*images, [picture(60, 90)]], asked, strict=True):
        assert answer.token_ids == answer_of_transformers(directory, torch_model, messages, pictures, max_new_tokens=24)
    assert len({tuple(answer.token_ids) for answer in answers}) == len(asked)


@pytest.mark.parametrize("architecture", ARCHITECTURES, indirect=True)
def test_a_video_is_answered_as_by_transformers(directory: Path, torch_model: PreTrainedModel, model: Pretrained):
    """At a frame a second a pair of frames takes two seconds, which Qwen2.5-VL's positions count."""
    frames, image = [picture(60 + 28 * number, 84).resize((84, 84)) for number in range(5)], picture(60, 90)
    content = [{"type": "video", "video": frames, "fps": 1}, {"type": "image", "image": image}]
    answer = model.chat([{"role": "user", "content": [*content, *user("What?")["content"]]}], max_new_tokens=12)
    messages = [{"role": "user", "content": [{"type": "video"}, {"type": "image"}, *user("What?")["content"]]}]
    settings = {"max_new_tokens": 12}
    if model.definition.config.vision.tokens_per_second is not None:
        settings["second_per_grid_ts"] = torch.tensor([2.0])
    expected = answer_of_transformers(directory, torch_model, messages, [image], [frames], **settings)
    assert answer.token_ids == expected
    if "second_per_grid_ts" not in settings:
        assert answer == model.generate("What?", image, frames, max_new_tokens=12)


def test_an_answer_ends_at_any_of_the_models_end_tokens(directory: Path, torch_model: PreTrainedModel):
    """The tokens of a long answer are declared end tokens, one after another."""
    tokens = r1vl_jax.load(str(directory)).generate("How many?", max_new_tokens=8).token_ids
    config = directory / "generation_config.json"
    before = config.read_text()
    try:
        config.write_text(before.replace('"eos_token_id": [', f'"eos_token_id": [{tokens[3]}, '))
        answer = r1vl_jax.load(str(directory)).generate("How many?", max_new_tokens=8)
    finally:
        config.write_text(before)
    assert (answer.token_ids, answer.has_ended) == (tokens[: tokens.index(tokens[3]) + 1], True)


def test_samples_depend_on_seed_and_place_alone(model: Pretrained):
    settings = {"temperature": 1.0, "max_new_tokens": 8}
    answers = model.generate(["How many?", "What?"], n=3, seed=7, **settings)
    assert [len(of_prompt) for of_prompt in answers] == [3, 3]
    assert len({answer for of_prompt in answers for answer in of_prompt}) == 6
    assert model.generate("How many?", seed=7, **settings) == answers[0][0]
    assert model.generate("How many?", seed=8, **settings) != answers[0][0]


def test_an_answer_says_whether_it_was_cut(model: Pretrained):
    answer = model.generate("How many?", max_new_tokens=3)
    assert (len(answer.token_ids), answer.has_ended) == (3, False)
    assert answer == model.prompter.decode(answer.token_ids)


def test_one_text_gives_an_answer_and_a_list_gives_a_list(model: Pretrained):
    settings = {"max_new_tokens": 2}
    answer = model.generate("How many?", picture(28, 28), **settings)
    assert model.generate(["How many?"], [picture(28, 28)], **settings) == [answer]
    assert model.chat(read_prompt("How many?", picture(28, 28)), **settings) == answer
    assert model.generate([], **settings) == []


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens: expected an integer of at least 1, got 0"),
        ({"temperature": -1}, "temperature: expected a number of at least 0, got -1"),
        ({"temperature": float("nan")}, "temperature: expected a number of at least 0, got nan"),
        ({"n": 2}, "n=2: at temperature 0 all answers to a prompt are the same; set a temperature"),
        ({"top_p": 0.0}, "top_p: expected a number above 0 and at most 1, got 0.0"),
        ({"seed": -1}, r"seed: expected an integer from 0 to 2\*\*63 - 1, got -1"),
        ({"seed": 2**70}, r"seed: expected an integer from 0 to 2\*\*63 - 1, got 1180"),
        ({"temperature": "hot"}, "temperature: expected a number of at least 0, got 'hot'"),
        ({"top_p": None}, "top_p: expected a number above 0 and at most 1, got None"),
        ({"instruction": 5}, "instruction: expected a text, got 5"),
    ],
)
def test_settings_are_checked(model: Pretrained, settings: dict, reason: str):
    with pytest.raises(ValueError, match=reason):
        model.generate("How many?", **settings)


@pytest.mark.parametrize("prompts", [None, 5])
def test_prompts_are_texts(model: Pretrained, prompts):
    with pytest.raises(ValueError, match=f"prompts: expected a text, or a list of .*, got {prompts}"):
        model.generate(prompts)


def test_what_cannot_be_loaded_is_named(directory: Path, model: Pretrained):
    with pytest.raises(ValueError, match="dtype: expected float32 or bfloat16, got 'float17'"):
        r1vl_jax.load(str(directory), dtype="float17")
    with pytest.raises(FileNotFoundError, match=r"adapter: no/such is no directory; expected one with adapter_config"):
        r1vl_jax.load(str(directory), adapter="no/such")


def test_prompts_without_their_pictures_are_refused(model: Pretrained):
    with pytest.raises(ValueError, match=r"prompt 2: a prompt: expected one <image> for each of 1 pictures, or none"):
        model.generate(["What?", "<image> <image>"], [None, picture(28, 28)])
    with pytest.raises(ValueError, match="images: expected a list with an entry for each of 2 prompts"):
        model.generate(["What?", "How?"], [picture(28, 28)])


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.5, "top_k": 20, "seed": 3}])
def test_pieces_of_a_stream_are_the_answer(model: Pretrained, settings: dict):
    """Random weights write bytes that make no characters: what lacks bytes waits, and comes at the end."""
    expected = model.generate("How many?", picture(60, 90), max_new_tokens=23, **settings)
    pieces = list(model.stream("How many?", picture(60, 90), max_new_tokens=23, **settings))
    assert "".join(pieces) == expected
    assert len(pieces) > 2
    assert "".join(model.stream(read_prompt("How many?", picture(60, 90)), max_new_tokens=23, **settings)) == expected


def test_a_stream_stops_at_an_end_token(model: Pretrained, monkeypatch: pytest.MonkeyPatch):
    tokens = model.generate("How many?", max_new_tokens=8).token_ids
    with_end = dataclasses.replace(model.prompter, eos_token_ids=(tokens[2],))
    monkeypatch.setitem(model.__dict__, "prompter", with_end)
    sizes = [len(each) for each in model.stream("How many?", max_new_tokens=100)]
    assert "".join(model.stream("How many?", max_new_tokens=100)) == model.generate("How many?", max_new_tokens=100)
    assert len(sizes) <= 2


def test_a_stream_refuses_before_it_answers(model: Pretrained):
    with pytest.raises(ValueError, match="the prompt: a prompt: expected one <image>"):
        model.stream("<image><image>", picture(28, 28))
    with pytest.raises(ValueError, match="max_new_tokens: expected an integer of at least 1, got 0"):
        model.stream("How many?", max_new_tokens=0)
