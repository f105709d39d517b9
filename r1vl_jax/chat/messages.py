"""Conversations in Hugging Face's form: turns for a chat template; pictures and videos in the order of their places.

[{"role": "system", "content": "Be brief."},
 {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What is it?"}]}]
"""

import base64
import binascii
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from r1vl_jax.data.pictures import open_picture
from r1vl_jax.data.sources.videos import MAX_FRAMES, list_videos, read_video
from r1vl_jax.data.turns import FPS, Conversation, Turn, Video, instruct, make_turn

Messages = Sequence[Mapping[str, Any]]

_ROLES = ("system", "user", "assistant")
# Keys under which Hugging Face's processors look for the picture of a part.
_PICTURE_KEYS = ("image", "path", "url", "base64")


def read_prompt(prompt: str, images: Any = None, videos: Any = None) -> Messages:
    """A prompt as a conversation of one turn.

    Args:
        prompt: with one `<image>` for each picture, or with none: then the pictures come first. `<video>` likewise, and
            before pictures.
        images: a picture or a sequence of them, each as in `open_image`; None for a text alone.
        videos: a video as in `read_messages`, or a list of such.

    Raises:
        ValueError: there are other numbers of pictures and of `<image>`, or of videos and of `<video>`.
    """
    pictures = [] if images is None else list(images) if isinstance(images, (list, tuple)) else [images]
    parts = make_turn("user", prompt)["content"]
    given = {"image": pictures, "video": list_videos(videos)}
    names = {"image": "pictures", "video": "videos"}
    for kind, items in given.items():
        number = sum(part["type"] == kind for part in parts)
        if number == 0:
            parts = [{"type": kind}] * len(items) + parts
        elif number != len(items):
            raise ValueError(
                f"a prompt: expected one <{kind}> for each of {len(items)} {names[kind]}, or none, got {number}; a text"
                f" that speaks of <{kind}> is given as messages"
            )
    following = {kind: iter(items) for kind, items in given.items()}
    content = [
        part | {part["type"]: next(following[part["type"]])} if part["type"] in given else part for part in parts
    ]
    return [{"role": "user", "content": content}]


def read_messages(messages: Messages, *, instruction: str = "") -> Conversation:
    """Checks a conversation and opens its pictures.

    Args:
        messages: each with a role (system, user or assistant) and a content: a string, or a list of parts
            `{"type": "text", "text": ...}` and `{"type": "image", "image": ...}`; a picture is as in `open_image`, and
            may stand under "path", "url" or "base64", or in an `image_url`. A video is a file or a directory of frames,
            of which two a second are taken, or a list of frames with `fps` (2 by default) beside it:
            `{"type": "video", "video": [...], "fps": 1}`. The last message is the user's.
        instruction: how to answer, put into the first turn of the user as `instruct` says; "" for none.

    Raises:
        ValueError: the conversation has another form, or a picture cannot be opened; names the message.
    """
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence) or not messages:
        raise ValueError(f"messages: expected a list of role and content, got {_shorten(messages)}")
    conversation = Conversation([])
    turns = conversation.turns
    for number, message in enumerate(messages, start=1):
        try:
            turn = _read_turn(message, conversation)
        except ValueError as error:
            raise ValueError(f"message {number}: {error}") from error
        if turn["role"] == "system" and number > 1:
            raise ValueError(f"message {number}: a system prompt comes first")
        turns.append(turn)
    if turns[-1]["role"] != "user":
        raise ValueError(f"messages: the last one must be the user's, got the {turns[-1]['role']}'s")
    return replace(conversation, turns=instruct(turns, instruction))


def open_image(source: Any) -> Image.Image:
    """A picture from a path, the bytes of a file, a data URL or a PIL image; nothing is downloaded.

    Raises:
        ValueError: it is none of these, or no picture.
    """
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, (bytes, bytearray)):
        return open_picture(bytes(source), name="a picture")
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(f"a picture: expected a path, bytes, a data URL or a PIL image, got {type(source).__name__}")
    text = os.fspath(source)
    if text.startswith("data:"):
        return _decode(text.partition(",")[2])
    if text.startswith(("http://", "https://")):
        raise ValueError(f"a picture: {_shorten(text)} is not downloaded; save it and give its path")
    path = Path(text.removeprefix("file://")).expanduser()
    try:
        return open_picture(path.read_bytes(), name=str(path))
    except OSError as error:
        raise ValueError(f"a picture: {path} cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise ValueError(f"a picture: {path} cannot be opened ({error})") from error


def _decode(text: str) -> Image.Image:
    try:
        encoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"a picture: expected base64, got {_shorten(text)} ({error})") from error
    return open_picture(encoded, name="a picture")


def _read_turn(message: Any, conversation: Conversation) -> Turn:
    """A checked turn; its pictures and videos are appended to those of the conversation."""
    if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
        raise ValueError(f'expected {{"role": ..., "content": ...}}, got {_shorten(message)}')
    role, content = message["role"], message["content"]
    if role not in _ROLES:
        raise ValueError(f"role: expected one of {', '.join(_ROLES)}, got {_shorten(role)}")
    if isinstance(content, str):
        return {"role": role, "content": content}
    if not isinstance(content, Sequence) or not content:
        raise ValueError(f"content: expected a text, or a list of parts, got {_shorten(content)}")
    return {"role": role, "content": list(_read_parts(content, conversation))}


def _read_parts(content: Sequence[Any], conversation: Conversation) -> Iterator[dict[str, str]]:
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            yield {"type": "text", "text": part["text"]}
        elif kind in ("image", "image_url"):
            conversation.images.append(_read_image(part))
            yield {"type": "image"}
        elif kind == "video":
            conversation.videos.append(_read_video(part))
            yield {"type": "video"}
        else:
            raise ValueError(
                f'content: expected {{"type": "text", "text": ...}} or {{"type": "image", "image": ...}}, got'
                f" {_shorten(part)}"
            )


def _read_image(part: Mapping[str, Any]) -> Image.Image:
    if part["type"] == "image_url":  # OpenAI's form: {"image_url": {"url": ...}}
        value = part.get("image_url")
        return open_image(value.get("url") if isinstance(value, Mapping) else value)
    given = [key for key in _PICTURE_KEYS if part.get(key) is not None]
    if len(given) != 1:
        raise ValueError(f'content: expected a picture as {{"type": "image", "image": ...}}, got {_shorten(part)}')
    value = part[given[0]]
    return _decode(value) if given[0] == "base64" and isinstance(value, str) else open_image(value)


def _read_video(part: Mapping[str, Any]) -> Video:
    frames, fps = part.get("video"), part.get("fps", FPS)
    if isinstance(frames, (str, os.PathLike)):
        return _open_video(os.fspath(frames))
    if not isinstance(frames, (list, tuple)) or not frames:
        raise ValueError(
            f"content: expected a video as a file, or a list of its frames, each a picture, got {_shorten(frames)}"
        )
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps < float("inf"):
        raise ValueError(f"content: expected fps as a number of frames a second above 0, got {_shorten(fps)}")
    return Video([open_image(frame) for frame in frames], fps)


def _open_video(source: str) -> Video:
    """A video from a file or a directory of frames, 2 frames a second."""
    if source.startswith(("http://", "https://")):
        raise ValueError(f"a video: {_shorten(source)} is not downloaded; save it and give its path")
    path = Path(source.removeprefix("file://")).expanduser().resolve()
    if not path.exists():
        raise ValueError(f"a video: {path}: no such file or directory")
    frames, fps = read_video(path.name, path.parent, max_frames=MAX_FRAMES)
    return Video([open_picture(frame, name=str(path)) for frame in frames], fps)


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
