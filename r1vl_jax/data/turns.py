"""Conversations for a chat template: turns, and their pictures and videos in the order of their places."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from r1vl_jax.data.placeholders import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER

Turn = dict[str, Any]  # role, and content: a string, or parts of type "text", "image" and "video", without the picture

FPS = 2.0  # frames a second of a video where nothing says so; what Qwen's processors sample
TOOL_TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
_TEXT = {"type": "text", "has_tool_tags": True}
_PARTS = {IMAGE_PLACEHOLDER: {"type": "image"}, VIDEO_PLACEHOLDER: {"type": "video"}}


@dataclass(frozen=True)
class Video:
    """Frames of one size, at so many a second."""

    frames: list[Image.Image]
    fps: float


@dataclass(frozen=True)
class Conversation:
    """Turns that end with the user's, and their pictures and videos in order."""

    turns: list[Turn]
    images: list[Image.Image] = field(default_factory=list)
    videos: list[Video] = field(default_factory=list)


def make_turn(role: str, text: str) -> Turn:
    """A turn of text parts, with an image or video part for each placeholder."""
    pieces = re.split(f"({IMAGE_PLACEHOLDER}|{VIDEO_PLACEHOLDER})", text)
    return {
        "role": role,
        "content": [_PARTS.get(piece) or {"type": "text", "text": piece} for piece in pieces if piece],
    }


def extend(conversation: Conversation, role: str, *parts: str | Image.Image) -> Conversation:
    """The conversation with a turn of texts and pictures at its end.

    The texts are words alone, placeholders of pictures included; but tags of tools (`TOOL_TAGS`) are the tokens that a
    model may have for them.
    """
    content = [_TEXT | {"text": part} if isinstance(part, str) else {"type": "image"} for part in parts]
    images = [part for part in parts if not isinstance(part, str)]
    return dataclasses.replace(
        conversation,
        turns=[*conversation.turns, {"role": role, "content": content}],
        images=[*conversation.images, *images],
    )


def instruct(turns: Sequence[Turn], instruction: str) -> list[Turn]:
    """The turns with an instruction in the user's first one, after its leading pictures, as `with_instruction` says.

    Turns of which that one, or a system turn before it, has the instruction already stay as they are.

    Args:
        turns: at least one is the user's.
        instruction: how to answer; "" for none.
    """
    first = next(number for number, turn in enumerate(turns) if turn["role"] == "user")
    before = "\n".join(text for turn in turns[:first] for text in _texts(turn))
    if with_instruction(before, instruction) == before:
        return list(turns)
    turn = turns[first] | {"content": _instructed(turns[first]["content"], instruction)}
    return [*turns[:first], turn, *turns[first + 1 :]]


def with_instruction(problem: str, instruction: str) -> str:
    """Puts an instruction between the leading images and videos of a problem and its question.

        <image>What is the value?    ->    <image>INSTRUCTION
                                           What is the value?

    White space after the leading images is kept; a problem without leading images starts with the instruction. A
    problem that contains the instruction already as whole words, with any line breaks, and an instruction of white
    space alone leave the problem as it is.

    Args:
        problem: with one `<image>` or `<video>` placeholder for each image or video.
        instruction: how to answer; white space around it is removed.
    """
    instruction = instruction.strip()
    whole_words = rf"(?<!\w){re.escape(_one_line(instruction))}(?!\w)"
    if not instruction or re.search(whole_words, _one_line(problem)):
        return problem
    leading = re.match(rf"(?:\s*(?:{IMAGE_PLACEHOLDER}|{VIDEO_PLACEHOLDER}))*\s*", problem)
    assert leading is not None  # it matches the empty string
    images, question = problem[: leading.end()], problem[leading.end() :]
    return f"{images}{instruction}\n{question}" if question else f"{images}{instruction}"


def _instructed(content: str | list[dict[str, str]], instruction: str) -> str | list[dict[str, str]]:
    """The content with the instruction after its leading pictures, unless a text of it has it already."""
    if isinstance(content, str):
        return with_instruction(content, instruction)
    texts = [part["text"] for part in content if part["type"] == "text"]
    if with_instruction("\n".join(texts), instruction) == "\n".join(texts):
        return content
    # What stands before the first text that says something are the leading pictures.
    first = next((index for index, part in enumerate(content) if part.get("text", "").strip()), None)
    if first is None:
        return [*content, {"type": "text", "text": instruction.strip()}]
    text = with_instruction(content[first]["text"], instruction)
    return [*content[:first], {"type": "text", "text": text}, *content[first + 1 :]]


def _texts(turn: Turn) -> Iterator[str]:
    content = turn["content"]
    if isinstance(content, str):
        yield content
    else:
        yield from (part["text"] for part in content if part["type"] == "text")


def _one_line(text: str) -> str:
    return " ".join(text.split())
