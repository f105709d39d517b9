"""A model is asked as it was trained: with its instruction, and with the tokens that training makes of a problem."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.chat_model import MAX_PIXELS, write_chat_model
from PIL import Image

from r1vl_jax.chat.messages import read_messages, read_prompt
from r1vl_jax.chat.prompter import load_prompter
from r1vl_jax.data.prompts import encode
from r1vl_jax.data.records import Record

IMAGE = Image.new("RGB", (60, 40), "red")


@pytest.fixture(scope="module")
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    architecture = getattr(request, "param", "qwen2_vl")
    path = tmp_path_factory.mktemp("model") / architecture
    write_chat_model(path, architecture)
    return path


def png() -> bytes:
    file = io.BytesIO()
    IMAGE.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "problem", ["<image>How many?", "Is <image> like\n <image>?", "<image> Say <|im_end|> and <|image_pad|>."]
)
def test_tokens_and_patches_are_those_of_training(directory: Path, problem: str):
    prompter, instruction = load_prompter(directory), "Think step by step."
    num_images = problem.count("<image>")
    record = Record("1", (png(),) * num_images, problem, "7", "7", (), "", "", "made up")
    expected = encode(record, prompter.processor, max_prompt_length=1000, instruction=instruction)
    messages = read_prompt(problem, [IMAGE] * num_images)
    got = prompter.encode(read_messages(messages, instruction=instruction))
    assert got.token_S.tolist() == expected.token_S.tolist()
    assert got.type_S.tolist() == expected.type_S.tolist()
    for (patches, grid), (expected_patches, expected_grid) in zip(got.images, expected.images, strict=True):
        assert grid == expected_grid
        np.testing.assert_array_equal(patches, expected_patches)


@pytest.mark.parametrize("directory", ["qwen2_vl", "qwen2_5_vl"], indirect=True)
def test_a_conversation_with_a_video_is_as_in_training(directory: Path):
    prompter, instruction = load_prompter(directory), "Think step by step."
    history = [("Is <image> it?", "No.")]
    videos = [[IMAGE, IMAGE, IMAGE]]
    record = Record.make(
        "And <video>?", images=[IMAGE], videos=videos, fps=0.5, answer="7", system="S", history=history
    )
    expected = encode(record, prompter.processor, instruction=instruction)
    messages = [
        {"role": "system", "content": "S"},
        *read_prompt("Is <image> it?", [IMAGE]),
        {"role": "assistant", "content": "No."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "And "}, {"type": "video", "video": videos[0], "fps": 0.5}],
        },
    ]
    messages[-1]["content"].append({"type": "text", "text": "?"})
    got = prompter.encode(read_messages(messages, instruction=instruction))
    assert (got.token_S.tolist(), got.video_intervals) == (expected.token_S.tolist(), expected.video_intervals)
    assert got.video_intervals == ((8.0,) if "5" in directory.name else (1.0,))
    np.testing.assert_array_equal(got.videos[0][0], expected.videos[0][0])


def test_an_export_says_its_instruction_and_its_limits(directory: Path, tmp_path: Path):
    shutil.copytree(directory, tmp_path / "export")
    (tmp_path / "export" / "instruction.txt").write_text("Think step by step.\n")
    assert load_prompter(tmp_path / "export").instruction == "Think step by step."
    assert load_prompter(directory).instruction == ""
    assert load_prompter(directory).processor.image_processor.size["longest_edge"] == MAX_PIXELS


def test_a_picture_that_is_too_narrow_is_refused(directory: Path):
    with pytest.raises(ValueError, match="absolute aspect ratio must be smaller than 200"):
        load_prompter(directory).encode(read_messages(read_prompt("What?", Image.new("RGB", (300, 1)))))


def test_a_template_that_cannot_write_the_conversation_is_refused(directory: Path, tmp_path: Path):
    shutil.copytree(directory, tmp_path / "model")
    template = tmp_path / "model" / "chat_template.jinja"
    conversation = read_messages(read_prompt("What?", IMAGE))
    template.write_text("{{ raise_exception('no pictures') }}")
    with pytest.raises(ValueError, match="the chat template cannot write it .*no pictures"):
        load_prompter(tmp_path / "model").encode(conversation)
    template.write_text("{% for m in messages %}{{ m.role }}{% endfor %}")
    with pytest.raises(ValueError, match="the chat template writes 0 pictures of 1"):
        load_prompter(tmp_path / "model").encode(conversation)
    template.unlink()
    with pytest.raises(ValueError, match="expected a chat template, such as chat_template.json; put that"):
        load_prompter(tmp_path / "model")
