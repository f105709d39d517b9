"""Where tokens and features stand: rope positions, the feature behind each image token, and the arrays of a batch."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int

from r1vl_jax.arrays import PackedVision, PromptBatch, check_shapes
from r1vl_jax.data.images import MERGE_SIZE, PATCHES_PER_FEATURE, Grid, Patches, num_features, pack

TEXT, IMAGE, VIDEO = 0, 1, 2  # types of tokens: values of mm_token_type_ids

Visions = Sequence[tuple[Patches, Grid]]


def token_types(token: np.ndarray, *, image_token_id: int, video_token_id: int) -> np.ndarray:
    """Which tokens stand for text (0), images (1) and videos (2)."""
    return np.where(token == image_token_id, IMAGE, np.where(token == video_token_id, VIDEO, TEXT))


def pad_rows(rows: Sequence[np.ndarray], width: int, *, side: str, value: int) -> np.ndarray:
    """Stacks rows of different length, padded on one side."""
    padded = np.full((len(rows), width), value, rows[0].dtype)
    for line, row in zip(padded, rows, strict=True):
        line[slice(width - len(row), None) if side == "left" else slice(len(row))] = row
    return padded


def prompt_batch(
    *,
    token_PS: Int[np.ndarray, "P S"],
    mask_PS: Bool[np.ndarray, "P S"],
    type_PS: Int[np.ndarray, "P S"],
    images: Visions,
    videos: Visions,
    patch_bucket: int,
    vision_shards: int = 1,
    video_intervals: Iterable[float] | None = None,
) -> PromptBatch:
    """Completes tokens and images to a batch: packs patches, and finds features and positions of the tokens.

    Args:
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


def to_process_shard(
    prompts: PromptBatch,
    *,
    width: int,
    num_patches: int,
    vision_rows: Sequence[int],
    prompt_id_P: Int[np.ndarray, " P"],
) -> PromptBatch:
    """The same prompts as a share of a batch.

    Args:
        width: tokens S of the batch's prompts, padding included.
        num_patches: patches M of a row of the batch's images.
        vision_rows: which of the batch's rows of images those of the share are.
        prompt_id_P: numbers of the share's prompts within the batch.
    """
    vision, missing_S = prompts.vision, width - prompts.token_PS.shape[1]
    num_own_features, num_features = (size // PATCHES_PER_FEATURE for size in (vision.patch_ZMC.shape[1], num_patches))
    row_PS, number_PS = np.divmod(prompts.feature_index_PS, num_own_features)
    index_PS = np.asarray(vision_rows, np.int32)[row_PS] * num_features + number_PS
    index_PS = np.where(prompts.feature_index_PS < 0, -1, index_PS)

    def padded_left(array: np.ndarray, value: int = 0) -> np.ndarray:
        return np.pad(array, [*[(0, 0)] * (array.ndim - 1), (missing_S, 0)], constant_values=value)

    def padded_right(array: np.ndarray) -> np.ndarray:
        return np.pad(array, [(0, 0), (0, num_patches - array.shape[1]), *[(0, 0)] * (array.ndim - 2)])

    return check_shapes(
        PromptBatch(
            token_PS=padded_left(prompts.token_PS),
            mask_PS=padded_left(prompts.mask_PS),
            position_3PS=padded_left(prompts.position_3PS),
            feature_index_PS=padded_left(index_PS, -1),
            next_position_P=prompts.next_position_P,
            prompt_id_P=prompt_id_P,
            vision=PackedVision(*map(padded_right, (vision.patch_ZMC, vision.segment_ZM, vision.position_ZM2))),
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
    """Rope positions of tokens in time, height and width, and the position of the token that follows.

    Text counts on, the same on all axes. The features of an image spread over height and width from where the text
    before it ended, those of a video over time too; the text after it goes on past the longer side.

    Args:
        type_PS: 0 text, 1 image, 2 video.
        mask_PS: True where a token is real; padding gets position 0.
        image_grids, video_grids: those of all prompts, in order.
        video_intervals: steps of time from one pair of frames to the next, for each video; 1 by default, as in
            Qwen2-VL. Time is cut to whole steps.

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
    parts: list[np.ndarray] = [np.zeros((3, 0), np.int32)]
    start = 0
    for token_type, run in itertools.groupby(types):
        if token_type == TEXT:
            length = len(list(run))
            parts.append(np.tile(np.arange(start, start + length), (3, 1)))
            start += length
        else:
            (frames, rows, columns), interval = next(visions[token_type])
            merged = (frames, rows // MERGE_SIZE, columns // MERGE_SIZE)
            frame, row, column = np.indices(merged).reshape(3, -1)
            # In float32, as transformers does: a step must not be lost or won by rounding.
            time = (frame.astype(np.float32) * np.float32(interval)).astype(np.int32)
            parts.append(start + np.stack([time, row, column]))
            start += max(merged[1:])
    return np.concatenate(parts, axis=1)


def _index_features(
    feature_index_PS: np.ndarray, is_feature_PS: np.ndarray, visions: Visions, starts: Sequence[int], name: str
):
    """Writes into each image token the number of its merged patch."""
    index = [start + np.arange(num_features(grid)) for (_, grid), start in zip(visions, starts, strict=True)]
    num_wanted, num_tokens = sum(map(len, index)), int(is_feature_PS.sum())
    if num_wanted != num_tokens:
        raise ValueError(
            f"{len(visions)} {name}s take {num_wanted} tokens, but the prompts have {num_tokens} {name} tokens;"
            " was a prompt cut, or its text not expanded by a processor?"
        )
    if index:
        feature_index_PS[is_feature_PS] = np.concatenate(index)
