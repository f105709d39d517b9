"""Conversations in Hugging Face's and OpenAI's forms, pictures from wherever they lie, and refusals by name."""

import base64
import io
import re
from pathlib import Path

import pytest
from helpers.films import write_film
from PIL import Image

from r1vl_jax.chat.messages import read_messages, read_prompt
from r1vl_jax.data.turns import with_instruction

RED = Image.new("RGB", (30, 20), "red")


def encoded(image: Image.Image = RED, format: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, format)
    return file.getvalue()


def data_url() -> str:
    return "data:image/png;base64," + base64.b64encode(encoded()).decode()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "red.png").write_bytes(encoded())
    return tmp_path / "red.png"


@pytest.mark.parametrize(
    "part",
    [
        lambda file: {"type": "image", "image": str(file)},
        lambda file: {"type": "image", "image": file},
        lambda file: {"type": "image", "image": RED},
        lambda file: {"type": "image", "image": encoded()},
        lambda file: {"type": "image", "image": data_url()},
        lambda file: {"type": "image", "path": str(file)},
        lambda file: {"type": "image", "url": f"file://{file}"},
        lambda file: {"type": "image", "base64": base64.b64encode(encoded()).decode()},
        lambda file: {"type": "image_url", "image_url": {"url": data_url()}},
    ],
)
def test_a_picture_in_every_form(part, file: Path):
    conversation = read_messages([{"role": "user", "content": [part(file), {"type": "text", "text": "What?"}]}])
    assert [image.getpixel((0, 0)) for image in conversation.images] == [(255, 0, 0)]
    assert conversation.turns == [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]


def test_pictures_of_all_turns_are_in_order():
    blue = Image.new("RGB", (20, 20), "blue")
    turns = [[{"type": "image", "image": RED}], [{"type": "text", "text": "and"}, {"type": "image", "image": blue}]]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": turns[0]}]
    messages += [{"role": "assistant", "content": "Red."}, {"role": "user", "content": turns[1]}]
    assert read_messages(messages).images == [RED, blue]


def test_a_video_is_a_file_a_directory_or_frames(tmp_path: Path):
    film = write_film(tmp_path / "film.mp4", num_frames=40, rate=10, step=6, size=(56, 28))
    (tmp_path / "frames").mkdir()
    for number in range(3):
        Image.new("RGB", (28, 28), (80 * number,) * 3).save(tmp_path / "frames" / f"{number}.png")
    frames = sorted((tmp_path / "frames").iterdir())
    (tmp_path / "linked.mp4").symlink_to(film)
    given = {
        "file": film,
        "link": str(tmp_path / "linked.mp4"),
        "directory": str(tmp_path / "frames"),
        "frames": frames,
    }
    numbers = {"file": 8, "link": 8, "directory": 3, "frames": 3}
    for name, videos in given.items():
        (video,) = read_messages(read_prompt("What?", videos=videos)).videos
        assert (len(video.frames), video.fps) == (numbers[name], 2.0), name
    both = read_messages(read_prompt("What?", videos=[str(film), str(tmp_path / "frames")])).videos
    assert [len(video.frames) for video in both] == [8, 3]
    assert [frame.getpixel((5, 5))[0] for frame in both[1].frames] == [0, 80, 160]


def test_a_prompt_with_and_without_places_for_its_pictures():
    def kinds(prompt: str, images) -> list[str]:
        (message,) = read_prompt(prompt, images)
        return [part.get("text", "<image>") for part in message["content"]]

    assert kinds("What?", RED) == ["<image>", "What?"]
    assert kinds("What?", [RED, RED]) == ["<image>", "<image>", "What?"]
    assert kinds("Is <image> like <image>?", [RED, RED]) == ["Is ", "<image>", " like ", "<image>", "?"]
    assert kinds("What?", None) == ["What?"]


def test_a_prompt_may_have_places_for_its_videos():
    """In order with its pictures, or before them."""
    (placed,) = read_prompt("<image>Then <video> moves.", RED, [[RED, RED]])
    assert [part["type"] for part in placed["content"]] == ["image", "text", "video", "text"]
    assert placed["content"][2]["video"] == [RED, RED]
    (first,) = read_prompt("<image>What moves?", RED, [RED, RED])
    assert [part["type"] for part in first["content"]] == ["video", "image", "text"]
    with pytest.raises(ValueError, match="expected one <video> for each of 1 videos, or none, got 2"):
        read_prompt("<video><video>", videos=[RED, RED])


@pytest.mark.parametrize("problem", ["What?", "<image>What?", "<image>\n<image> What?", "Is <image> red?", "<image>"])
def test_an_instruction_stands_where_training_puts_it(problem: str):
    messages = read_prompt(problem, [RED] * problem.count("<image>"))
    (turn,) = read_messages(messages, instruction=" Think. ").turns
    text = "".join(part.get("text", "<image>") for part in turn["content"])
    assert text == with_instruction(problem, " Think. ")


def test_an_instruction_is_given_once_and_not_twice():
    turns = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "Red."}]
    turns += [{"role": "user", "content": "And now?"}]
    contents = [turn["content"] for turn in read_messages(turns, instruction="Think.").turns]
    assert contents == ["Think.\nWhat?", "Red.", "And now?"]
    asked = [{"role": "user", "content": [{"type": "text", "text": "Think. What?"}]}]
    assert read_messages(asked, instruction="Think.").turns == asked


def test_a_text_that_speaks_of_an_image_is_text():
    (turn,) = read_messages([{"role": "user", "content": "Is <image> a tag?"}]).turns
    assert turn["content"] == "Is <image> a tag?"


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "messages: expected a list of role and content, got []"),
        ({"role": "user"}, "messages: expected a list of role and content, got {'role': 'user'}"),
        (["What?"], 'message 1: expected {"role": ..., "content": ...}, got \'What?\''),
        ([{"role": "robot", "content": "a"}], "message 1: role: expected one of system, user, assistant, got 'robot'"),
        ([{"role": "user", "content": None}], "message 1: content: expected a text, or a list of parts, got None"),
        ([{"role": "user", "content": [{"type": "audio"}]}], 'message 1: content: expected {"type": "text"'),
        (
            [{"role": "user", "content": [{"type": "video", "video": 3}]}],
            "expected a video as a file, or a list of its frames",
        ),
        (
            [{"role": "user", "content": [{"type": "video", "video": "no/a.mp4"}]}],
            "no/a.mp4: no such file or directory",
        ),
        (
            [{"role": "user", "content": [{"type": "video", "video": "https://a.b/c.mp4"}]}],
            "a video: 'https://a.b/c.mp4' is not downloaded; save it and give its path",
        ),
        ([{"role": "user", "content": [{"type": "video", "video": [RED], "fps": 0}]}], "expected fps as a number of"),
        ([{"role": "user", "content": [{"type": "image"}]}], "message 1: content: expected a picture as"),
        ([{"role": "assistant", "content": "a"}], "messages: the last one must be the user's, got the assistant's"),
        (
            [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}],
            "message 2: a system prompt comes first",
        ),
    ],
)
def test_other_forms_are_refused_by_name(messages, reason: str):
    with pytest.raises(ValueError, match=re.escape(reason)):
        read_messages(messages)


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        ("no/such.png", "a picture: no/such.png cannot be read (No such file or directory)"),
        ("https://example.org/a.png", "a picture: 'https://example.org/a.png' is not downloaded; save it and give"),
        ("data:image/png;base64,***", "a picture: expected base64, got '***'"),
        (b"GIF?", "cannot identify image file"),
        (7, "a picture: expected a path, bytes, a data URL or a PIL image, got int"),
    ],
)
def test_pictures_that_cannot_be_opened_are_refused(picture, reason: str):
    with pytest.raises(ValueError, match=f"message 1: .*{re.escape(reason)}"):
        read_messages([{"role": "user", "content": [{"type": "image", "image": picture}]}])
