"""Collates prompts into a `PromptBatch`: packed patches, M-RoPE positions, and the feature of each image token."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int

from r1vl_jax.arrays import PackedVision, PromptBatch, check_shapes
from r1vl_jax.data.images import MERGE_SIZE, PATCHES_PER_FEATURE, Grid, Patches, num_features, pack

TEXT, IMAGE, VIDEO = 0, 1, 2  # token types, the values of Hugging Face's mm_token_type_ids

VisualInputs = Sequence[tuple[Patches, Grid]]


def token_types(token: np.ndarray, *, image_token_id: int, video_token_id: int) -> np.ndarray:
    """Token types: 0 text, 1 image, 2 video."""
    return np.where(token == image_token_id, IMAGE, np.where(token == video_token_id, VIDEO, TEXT))


def round_up(length: int, multiple: int) -> int:
    """The smallest multiple of a number that holds a length."""
    return -(-length // multiple) * multiple


def pad_rows(rows: Sequence[np.ndarray], width: int, *, side: str, value: int) -> np.ndarray:
    """Stacks rows of different lengths, padded on one side."""
    padded = np.full((len(rows), width), value, rows[0].dtype)
    for target, row in zip(padded, rows, strict=True):
        target[slice(width - len(row), None) if side == "left" else slice(len(row))] = row
    return padded


def make_prompt_batch(
    *,
    token_PS: Int[np.ndarray, "P S"],
    mask_PS: Bool[np.ndarray, "P S"],
    type_PS: Int[np.ndarray, "P S"],
    images: VisualInputs,
    videos: VisualInputs,
    patch_bucket: int,
    vision_shards: int = 1,
    video_intervals: Iterable[float] | None = None,
) -> PromptBatch:
    """Packs the patches, and computes M-RoPE positions and feature indices of the tokens.

    Args:
        images, videos: those of all prompts, in order.
        patch_bucket: each row of packed patches is padded to a multiple of this many.
        vision_shards: rows that the patches are packed into.
        video_intervals: as in `rope_positions`.

    Raises:
        ValueError: the images or videos take more or fewer tokens than the prompts have for them.
    """
    vision, starts = pack([*images, *videos], bucket=patch_bucket, num_shards=vision_shards)
    feature_index_PS = np.full(token_PS.shape, -1, np.int32)
    _index_features(feature_index_PS, type_PS == IMAGE, images, starts[: len(images)], "image")
    _index_features(feature_index_PS, type_PS == VIDEO, videos, starts[len(images) :], "video")
    position_3PS, next_position_P = rope_positions(
        type_PS,
        mask_PS,
        image_grids=[grid for _, grid in images],
        video_grids=[grid for _, grid in videos],
        video_intervals=video_intervals,
    )
    arrays = PromptBatch(
        token_PS=token_PS,
        mask_PS=mask_PS,
        position_3PS=position_3PS,
        feature_index_PS=feature_index_PS,
        next_position_P=next_position_P,
        prompt_id_P=np.arange(len(token_PS), dtype=np.int32),
        vision=vision,
    )
    return check_shapes(arrays)


def pad_to_global_shapes(
    prompts: PromptBatch,
    *,
    width: int,
    num_patches: int,
    vision_rows: Sequence[int],
    prompt_id_P: Int[np.ndarray, " P"],
) -> PromptBatch:
    """Pads one process's prompts to the shapes of the global batch, and renumbers prompts and features globally.

    Args:
        width: tokens S of a prompt in the global batch, padding included.
        num_patches: patches M of a row of packed patches in the global batch.
        vision_rows: the index in the global batch of each of this process's rows of packed patches.
        prompt_id_P: the ids of this process's prompts in the global batch.
    """
    vision, num_padding = prompts.vision, width - prompts.token_PS.shape[1]
    local_features, global_features = (size // PATCHES_PER_FEATURE for size in (vision.patch_ZMC.shape[1], num_patches))
    row_PS, offset_PS = np.divmod(prompts.feature_index_PS, local_features)
    index_PS = np.asarray(vision_rows, np.int32)[row_PS] * global_features + offset_PS
    index_PS = np.where(prompts.feature_index_PS < 0, -1, index_PS)

    def pad_left(array: np.ndarray, value: int = 0) -> np.ndarray:
        return np.pad(array, [*[(0, 0)] * (array.ndim - 1), (num_padding, 0)], constant_values=value)

    def pad_right(array: np.ndarray) -> np.ndarray:
        return np.pad(array, [(0, 0), (0, num_patches - array.shape[1]), *[(0, 0)] * (array.ndim - 2)])

    return check_shapes(
        PromptBatch(
            token_PS=pad_left(prompts.token_PS),
            mask_PS=pad_left(prompts.mask_PS),
            position_3PS=pad_left(prompts.position_3PS),
            feature_index_PS=pad_left(index_PS, -1),
            next_position_P=prompts.next_position_P,
            prompt_id_P=prompt_id_P,
            vision=PackedVision(*map(pad_right, (vision.patch_ZMC, vision.segment_ZM, vision.position_ZM2))),
        )
    )


def rope_positions(
    type_PS: Int[np.ndarray, "P S"],
    mask_PS: Bool[np.ndarray, "P S"],
    *,
    image_grids: Iterable[Grid] = (),
    video_grids: Iterable[Grid] = (),
    video_intervals: Iterable[float] | None = None,
) -> tuple[Int[np.ndarray, "3 P S"], Int[np.ndarray, " P"]]:
    """M-RoPE positions (time, height, width) of the tokens, and the position of each prompt's first completion token.

    A text token has one position on all three axes, one past that of the token before it. The tokens of an image share
    the time of its first one and count rows and columns from there; those of a video also count time. The text after
    it continues one past the largest row or column.

    Args:
        type_PS: 0 text, 1 image, 2 video.
        mask_PS: True where a token is real; padding gets position 0.
        image_grids, video_grids: those of all prompts, in order.
        video_intervals: temporal positions from one frame pair to the next, for each video; 1 by default, as in
            Qwen2-VL. Products are truncated to integers.

    Source:
        Wang et al., Qwen2-VL, 2024, section 2.1, https://arxiv.org/abs/2409.12191, and Bai et al., Qwen2.5-VL, 2025,
        section 2.1.3, https://arxiv.org/abs/2502.13923; `get_rope_index` of transformers.
    """
    intervals = itertools.repeat(1.0) if video_intervals is None else video_intervals
    visions = {
        IMAGE: zip(image_grids, itertools.repeat(1.0), strict=False),
        VIDEO: zip(video_grids, intervals, strict=False),
    }
    position_3PS = np.zeros((3, *type_PS.shape), np.int32)
    next_position_P = np.zeros(len(type_PS), np.int32)
    for row, (type_S, mask_S) in enumerate(zip(type_PS, mask_PS, strict=True)):
        position_3S = _positions_of_prompt(type_S[mask_S].tolist(), visions)
        position_3PS[:, row, mask_S] = position_3S
        next_position_P[row] = position_3S.max(initial=-1) + 1
    return position_3PS, next_position_P


def _positions_of_prompt(
    types: list[int], visions: Mapping[int, Iterator[tuple[Grid, float]]]
) -> Int[np.ndarray, "3 S"]:
    spans: list[np.ndarray] = [np.zeros((3, 0), np.int32)]
    start = 0
    for token_type, span in itertools.groupby(types):
        if token_type == TEXT:
            length = len(list(span))
            spans.append(np.tile(np.arange(start, start + length), (3, 1)))
            start += length
        else:
            (frames, rows, columns), interval = next(visions[token_type])
            merged = (frames, rows // MERGE_SIZE, columns // MERGE_SIZE)
            frame, row, column = np.indices(merged).reshape(3, -1)
            # In float32 like transformers, so that truncation gives the same integers.
            time = (frame.astype(np.float32) * np.float32(interval)).astype(np.int32)
            spans.append(start + np.stack([time, row, column]))
            start += max(merged[1:])
    return np.concatenate(spans, axis=1)


def _index_features(
    feature_index_PS: np.ndarray, is_feature_PS: np.ndarray, visions: VisualInputs, starts: Sequence[int], name: str
):
    """Writes the index of its vision feature (merged patch) into each image or video token."""
    index = [start + np.arange(num_features(grid)) for (_, grid), start in zip(visions, starts, strict=True)]
    num_expected, num_tokens = sum(map(len, index)), int(is_feature_PS.sum())
    if num_expected != num_tokens:
        raise ValueError(
            f"{len(visions)} {name}s take {num_expected} tokens, but the prompts have {num_tokens} {name} tokens;"
            " was a prompt cut, or its text not expanded by a processor?"
        )
    if index:
        feature_index_PS[is_feature_PS] = np.concatenate(index)
