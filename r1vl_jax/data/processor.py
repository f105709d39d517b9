"""Model inputs under Hugging Face's names: made of text, images and videos (`Processor`), and made a `PromptBatch`."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from r1vl_jax.arrays import PromptBatch
from r1vl_jax.data.collate import TEXT, VisualInputs, make_prompt_batch, pad_rows, token_types
from r1vl_jax.data.images import Grid, Patches, image_patches, num_features, video_patches
from r1vl_jax.data.tokenizer import IMAGE_TOKEN, VIDEO_TOKEN
from r1vl_jax.data.user_text import UserText


class Processor:
    """Tokenizer and image processor, called like transformers' `Qwen2VLProcessor`, which needs torchvision.

    Args:
        tokens_per_second: temporal M-RoPE positions per second of video; None for a model that counts frames instead.
    """

    def __init__(self, tokenizer: Any, image_processor: Any, *, tokens_per_second: int | None = None):
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.tokens_per_second = tokens_per_second
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
