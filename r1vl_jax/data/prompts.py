"""Turns text and images into model inputs: with Hugging Face's names (`Processor`), or as a `PromptBatch` (`batch`)."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from r1vl_jax.arrays import PromptBatch
from r1vl_jax.data.collate import TEXT, VisualInputs, make_prompt_batch, pad_rows, round_up, token_types
from r1vl_jax.data.images import Grid, Patches, image_patches, num_features, video_patches
from r1vl_jax.data.placeholders import IMAGE_PLACEHOLDER
from r1vl_jax.data.records import Record, UnusableRecord, decode_images
from r1vl_jax.data.tokenizer import IMAGE_TOKEN, VIDEO_TOKEN
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


class Processor:
    """Tokenizer and image processor, called like transformers' `Qwen2VLProcessor`, which needs torchvision."""

    def __init__(self, tokenizer: Any, image_processor: Any):
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.user_text = UserText(tokenizer)
        self.image_token_id: int = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self.video_token_id: int = tokenizer.convert_tokens_to_ids(VIDEO_TOKEN)

    def __call__(
        self,
        text: Sequence[str],
        images: Sequence[Sequence[Image.Image]] = (),
        videos: Sequence[Sequence[Sequence[Image.Image]]] = (),
        *,
        padding_side: str = "left",
    ) -> dict[str, np.ndarray]:
        """Model inputs with Hugging Face's names.

        Args:
            text: prompts, with one `<|image_pad|>` or `<|video_pad|>` placeholder for each image or video.
            images, videos: those of each prompt, in the order of their placeholders; a video is a sequence of frames.
            padding_side: "left" or "right".

        Raises:
            ValueError: a prompt has another number of images (or videos) than of placeholders.
        """
        image_rows = [[image_patches(image, self.image_processor) for image in row] for row in images]
        video_rows = [[video_patches(video, self.image_processor) for video in row] for row in videos]
        text = _expand_rows(_expand_rows(text, IMAGE_TOKEN, image_rows), VIDEO_TOKEN, video_rows)
        rows = [np.array(row, np.int64) for row in self.tokenizer(text)["input_ids"]]
        width = max(len(row) for row in rows)
        token_PS = pad_rows(rows, width, side=padding_side, value=self.tokenizer.pad_token_id)
        mask_PS = pad_rows([np.ones_like(row) for row in rows], width, side=padding_side, value=0)
        inputs = {"input_ids": token_PS, "attention_mask": mask_PS, "mm_token_type_ids": self.types(token_PS)}
        inputs |= _stack(itertools.chain(*image_rows), "pixel_values", "image_grid_thw")
        return inputs | _stack(itertools.chain(*video_rows), "pixel_values_videos", "video_grid_thw")

    def types(self, token: np.ndarray) -> np.ndarray:
        """Token types, `mm_token_type_ids` of Hugging Face: 0 text, 1 image, 2 video."""
        return token_types(token, image_token_id=self.image_token_id, video_token_id=self.video_token_id)


def encode(record: Record, processor: Processor, *, max_prompt_length: int, instruction: str = "") -> EncodedPrompt:
    """Renders a record with the chat template, as a user turn and the header of the assistant turn, and tokenizes it.

    Special tokens in the problem stay text; only the template writes control tokens.

    Args:
        max_prompt_length: in tokens, image tokens included; a longer prompt is refused, never truncated.
        instruction: how to answer, added to the problem by `with_instruction`; "" for none.

    Raises:
        UnusableRecord: the record is invalid or its prompt is too long.
    """
    try:
        images = tuple(image_patches(image, processor.image_processor) for image in decode_images(record))
        content = _content(with_instruction(record.problem, instruction), processor.user_text)
        turn = {"role": "user", "content": content}
        text = processor.tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
        text = _expand(text, IMAGE_TOKEN, [grid for _, grid in images])
        token_S = np.array(processor.user_text.encode(text), np.int32)
    except ValueError as error:
        raise UnusableRecord(record.id, str(error)) from error
    if len(token_S) > max_prompt_length:
        num_image_tokens = sum(num_features(grid) for _, grid in images)
        raise UnusableRecord(
            record.id,
            f"its prompt has {len(token_S)} tokens, {num_image_tokens} of them for images;"
            f" at most max_prompt_length={max_prompt_length} fit; raise it, or lower max_pixels",
        )
    return EncodedPrompt(token_S=token_S, type_S=processor.types(token_S), images=images)


def with_instruction(problem: str, instruction: str) -> str:
    """Puts an instruction between the leading images of a problem and its question.

        <image>What is the value?    ->    <image>INSTRUCTION
                                           What is the value?

    White space after the leading images is kept; a problem without leading images starts with the instruction. A
    problem that contains the instruction already as whole words, with any line breaks, and an instruction of white
    space alone leave the problem as it is.

    Args:
        problem: with one `<image>` placeholder for each image.
        instruction: how to answer; white space around it is removed.
    """
    instruction = instruction.strip()
    whole_words = rf"(?<!\w){re.escape(_one_line(instruction))}(?!\w)"
    if not instruction or re.search(whole_words, _one_line(problem)):
        return problem
    leading = re.match(rf"(?:\s*{IMAGE_PLACEHOLDER})*\s*", problem)
    assert leading is not None  # it matches the empty string
    images, question = problem[: leading.end()], problem[leading.end() :]
    return f"{images}{instruction}\n{question}" if question else f"{images}{instruction}"


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


def from_inputs(
    inputs: Mapping[str, np.ndarray],
    *,
    image_token_id: int,
    video_token_id: int,
    tokens_per_second: int | None = None,
    patch_bucket: int = 256,
) -> PromptBatch:
    """A `PromptBatch` from Hugging Face's model inputs, padded on either side; columns keep their order.

    Args:
        tokens_per_second: temporal M-RoPE positions per second of video; None for a model that counts frames instead.

    Raises:
        ValueError: images or videos do not match their placeholder tokens, or `second_per_grid_ts` the videos.
    """
    token_PS = np.asarray(inputs["input_ids"], np.int32)
    mask_PS = np.asarray(inputs.get("attention_mask", np.ones_like(token_PS)), bool)
    type_PS = inputs.get("mm_token_type_ids")
    if type_PS is None:
        type_PS = token_types(token_PS, image_token_id=image_token_id, video_token_id=video_token_id)
    videos = _unstack(inputs, "pixel_values_videos", "video_grid_thw")
    return make_prompt_batch(
        token_PS=token_PS,
        mask_PS=mask_PS,
        type_PS=np.where(mask_PS, type_PS, TEXT),
        images=_unstack(inputs, "pixel_values", "image_grid_thw"),
        videos=videos,
        video_intervals=_intervals(inputs.get("second_per_grid_ts"), len(videos), tokens_per_second),
        patch_bucket=patch_bucket,
    )


def _intervals(
    second_per_grid: np.ndarray | None, num_videos: int, tokens_per_second: int | None
) -> Float[np.ndarray, " videos"] | None:
    """Temporal positions from one frame pair of each video to the next; pairs are one second apart by default."""
    if second_per_grid is not None and tokens_per_second is None:
        raise ValueError("second_per_grid_ts: this model's time counts frames, not seconds; leave it out")
    if second_per_grid is not None and len(second_per_grid) != num_videos:
        raise ValueError(
            f"second_per_grid_ts: expected a number for each of {num_videos} videos, got {second_per_grid}"
        )
    if tokens_per_second is None:
        return None
    seconds = np.ones(num_videos) if second_per_grid is None else second_per_grid
    return tokens_per_second * np.asarray(seconds, np.float32)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _content(problem: str, user_text: UserText) -> list[dict[str, str]]:
    """The content of a user turn: protected text parts, and an image part for each placeholder."""
    texts = [user_text.protect(text) for text in problem.split(IMAGE_PLACEHOLDER)]
    parts = [part for text in texts for part in ({"type": "image"}, {"type": "text", "text": text})][1:]
    return [part for part in parts if part.get("text") != ""]


def _expand_rows(text: Sequence[str], token: str, visions: Sequence[VisualInputs]) -> list[str]:
    grids = [[grid for _, grid in row] for row in visions] or [[] for _ in text]
    return [_expand(row, token, row_grids) for row, row_grids in zip(text, grids, strict=True)]


def _expand(text: str, token: str, grids: Sequence[Grid]) -> str:
    """Repeats each placeholder token once for every merged patch of its image or video."""
    parts = text.split(token)
    if len(parts) - 1 != len(grids):
        raise ValueError(f"expected one {token} for each of {len(grids)} images or videos, got {len(parts) - 1}")
    repeats = [token * num_features(grid) for grid in grids]
    return "".join(itertools.chain(*itertools.zip_longest(parts, repeats, fillvalue="")))


def _stack(visions: Iterable[tuple[Patches, Grid]], patches_name: str, grids_name: str) -> dict[str, np.ndarray]:
    pairs = list(visions)
    if not pairs:
        return {}
    return {
        patches_name: np.concatenate([patches for patches, _ in pairs]),
        grids_name: np.array([grid for _, grid in pairs], np.int64),
    }


def _unstack(inputs: Mapping[str, np.ndarray], patches_name: str, grids_name: str) -> list[tuple[Patches, Grid]]:
    if inputs.get(patches_name) is None:
        return []
    grids: list[Grid] = [tuple(grid) for grid in np.asarray(inputs[grids_name]).tolist()]
    ends = np.cumsum([np.prod(grid) for grid in grids])
    return list(zip(np.split(np.asarray(inputs[patches_name], np.float32), ends[:-1]), grids, strict=True))
