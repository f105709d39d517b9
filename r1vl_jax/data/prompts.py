"""Prompts: records and conversations as tokens and patches, and a `PromptBatch` of several."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from r1vl_jax.arrays import PromptBatch
from r1vl_jax.data.collate import TEXT, make_prompt_batch, pad_rows, round_up
from r1vl_jax.data.images import TEMPORAL_PATCH_SIZE, Grid, Patches, image_patches, num_features, video_patches
from r1vl_jax.data.processor import Processor
from r1vl_jax.data.records import Record, UnusableRecord, decode_images, decode_videos
from r1vl_jax.data.turns import TOOL_TAGS, Conversation, Turn, instruct, make_turn
from r1vl_jax.data.user_text import UserText


@dataclass(frozen=True)
class EncodedPrompt:
    """A tokenized prompt, with one image token for each merged patch, and the patches of its images.

    Attributes:
        token_S: token ids.
        type_S: 0 text, 1 image, 2 video.
        images, videos: patches and grid of each image and of each video.
        video_intervals: temporal positions from one frame pair to the next, for each video.
    """

    token_S: Int[np.ndarray, " S"]
    type_S: Int[np.ndarray, " S"]
    images: tuple[tuple[Patches, Grid], ...]
    videos: tuple[tuple[Patches, Grid], ...] = ()
    video_intervals: tuple[float, ...] = ()


def encode(
    record: Record, processor: Processor, *, max_prompt_length: int | None = None, instruction: str = ""
) -> EncodedPrompt:
    """Renders a record with the chat template, up to the header of the assistant turn, and tokenizes it.

    Args:
        max_prompt_length: in tokens, images included; a longer prompt is refused, never truncated; None for any.
        instruction: how to answer, put into the user's first turn by `instruct`; "" for none.

    Raises:
        UnusableRecord: the record is invalid or its prompt is too long.
    """
    try:
        return render_within(conversation(record, instruction), processor, max_prompt_length)
    except ValueError as error:
        raise UnusableRecord(record.id, str(error)) from error


def conversation(record: Record, instruction: str = "") -> Conversation:
    """The turns of a record, without its response, and its pictures.

    Raises:
        ValueError: a picture cannot be read.
    """
    images, videos = decode_images(record), decode_videos(record)
    return Conversation(instruct(_turns(record), instruction), images, videos)


def render_within(conversation: Conversation, processor: Processor, max_prompt_length: int | None) -> EncodedPrompt:
    """`render`, which refuses a prompt of more tokens than `max_prompt_length`.

    Raises:
        ValueError: as `render`, or the prompt is too long.
    """
    prompt = render(conversation, processor)
    length = len(prompt.token_S)
    if max_prompt_length is not None and length > max_prompt_length:
        raise ValueError(
            f"its prompt has {length} tokens, {np.count_nonzero(prompt.type_S != TEXT)} of them for images and videos;"
            f" at most max_prompt_length={max_prompt_length} fit; raise it, or lower max_pixels"
        )
    return prompt


def render(conversation: Conversation, processor: Processor) -> EncodedPrompt:
    """Renders a conversation with the chat template, up to the header of the assistant turn, and tokenizes it.

    Special tokens in the texts stay text; only the template writes control tokens.

    Raises:
        ValueError: a picture is too narrow, or the template cannot write this conversation.
    """
    images = tuple(image_patches(image, processor.image_processor) for image in conversation.images)
    videos = tuple(video_patches(video.frames, processor.image_processor) for video in conversation.videos)
    token_S = np.array(processor.user_text.encode(_write(conversation.turns, processor)), np.int32)
    # One placeholder token for every merged patch.
    repeats_S = np.ones(len(token_S), int)
    kinds = {"pictures": (images, processor.image_token_id), "videos": (videos, processor.video_token_id)}
    for kind, (visions, token_id) in kinds.items():
        is_vision_S = token_S == token_id
        if (number := int(is_vision_S.sum())) != len(visions):
            raise ValueError(f"the chat template writes {number} {kind} of {len(visions)}; is it that of this model?")
        repeats_S[is_vision_S] = [num_features(grid) for _, grid in visions]
    token_S = np.repeat(token_S, repeats_S)
    # A pair of frames becomes one patch.
    seconds = [TEMPORAL_PATCH_SIZE / video.fps for video in conversation.videos]
    rate = processor.tokens_per_second
    intervals = tuple(1.0 if rate is None else rate * each for each in seconds)
    return EncodedPrompt(token_S, processor.types(token_S), images, videos, intervals)


def batch(
    prompts: Sequence[EncodedPrompt], *, prompt_bucket: int, patch_bucket: int, vision_shards: int = 1
) -> PromptBatch:
    """Collates prompts, padded on the left; prompt ids count from 0.

    Args:
        prompt_bucket: the width is padded to a multiple of this many tokens.
        patch_bucket: each row of packed patches is padded to a multiple of this many.
        vision_shards: rows that the images are packed into.
    """
    width = round_up(max(len(prompt.token_S) for prompt in prompts), prompt_bucket)
    return make_prompt_batch(
        token_PS=pad_rows([prompt.token_S for prompt in prompts], width, side="left", value=0),
        mask_PS=pad_rows([np.ones(len(prompt.token_S), bool) for prompt in prompts], width, side="left", value=0),
        type_PS=pad_rows([prompt.type_S for prompt in prompts], width, side="left", value=TEXT),
        images=[image for prompt in prompts for image in prompt.images],
        videos=[video for prompt in prompts for video in prompt.videos],
        video_intervals=[interval for prompt in prompts for interval in prompt.video_intervals],
        patch_bucket=patch_bucket,
        vision_shards=vision_shards,
    )


def _turns(record: Record) -> list[Turn]:
    """The turns of a record, without its response."""
    turns: list[Turn] = [{"role": "system", "content": record.system}] if record.system else []
    for question, answer in record.history:
        turns += [make_turn("user", question), make_turn("assistant", answer)]
    return [*turns, make_turn("user", record.problem)]


def _write(turns: Sequence[Turn], processor: Processor) -> str:
    protected = [_protect(turn, processor.user_text) for turn in turns]
    try:
        return processor.tokenizer.apply_chat_template(protected, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program, and may raise anything
        raise ValueError(f"the chat template cannot write it ({type(error).__name__}: {error})") from error


def _protect(turn: Turn, user_text: UserText) -> Turn:
    content = turn["content"]
    if isinstance(content, str):
        return turn | {"content": user_text.protect(content)}
    return turn | {"content": [_protect_part(part, user_text) if part["type"] == "text" else part for part in content]}


def _protect_part(part: dict[str, Any], user_text: UserText) -> dict[str, Any]:
    pieces = re.split(f"({'|'.join(TOOL_TAGS)})", part["text"]) if part.get("has_tool_tags") else [part["text"]]
    return part | {"text": "".join(piece if piece in TOOL_TAGS else user_text.protect(piece) for piece in pieces)}
