"""Cuts images into patches, and packs the patches of many images into one sequence without padding between them.

transformers' image processor (its NumPy and PIL class) resizes to multiples of 28 pixels, normalises, and cuts patches
of 14x14 pixels and two frames, in Qwen's order: four consecutive patches are the 2x2 square of one merged patch.
"""

import os
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

from r1vl_jax.arrays import PackedVision
from r1vl_jax.data.pictures import to_rgb

PATCH_SIZE, TEMPORAL_PATCH_SIZE, MERGE_SIZE = 14, 2, 2  # of all published models, and the only ones supported
PATCHES_PER_FEATURE = MERGE_SIZE**2
PIXELS_PER_FEATURE = (PATCH_SIZE * MERGE_SIZE) ** 2
PATCH_VALUES = 3 * TEMPORAL_PATCH_SIZE * PATCH_SIZE**2  # C: (channel, frame, row, column)

IMAGE_PROCESSOR_FILES = "preprocessor_config.json, or image_processor in processor_config.json"
_REQUIRED = {
    "patch_size": PATCH_SIZE,
    "temporal_patch_size": TEMPORAL_PATCH_SIZE,
    "merge_size": MERGE_SIZE,
    "do_resize": True,
}

Patches = Float[np.ndarray, "M C"]
Grid = tuple[int, int, int]  # frames (after pairing), rows and columns of patches


def load_image_processor(
    directory_or_hub_name: str | os.PathLike = "", *, min_pixels: int | None = None, max_pixels: int | None = None
) -> Qwen2VLImageProcessorPil:
    """The image processor of a model; for "" one with Qwen2-VL's mean, standard deviation and patch size.

    Args:
        min_pixels, max_pixels: images are resized to an area between these, in pixels, whatever the model's files say;
            None for both keeps the limits of the files.

    Raises:
        ValueError: the model's files are unreadable, or cut other patches than the model takes; lists what differs.
    """
    # Both spellings, since the second one wins where a file has it.
    size = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
    limits = {} if max_pixels is None else {"size": size, "min_pixels": min_pixels, "max_pixels": max_pixels}
    if not directory_or_hub_name:
        return Qwen2VLImageProcessorPil(**limits)
    where = f"{directory_or_hub_name}: {IMAGE_PROCESSOR_FILES}"
    try:
        processor = Qwen2VLImageProcessorPil.from_pretrained(directory_or_hub_name, **limits)
        values = {name: getattr(processor, name, None) for name in _REQUIRED}
        wrong = [name for name in _REQUIRED if values[name] != _REQUIRED[name]]
        if not wrong:
            image_patches(Image.new("RGB", (28, 28)), processor)  # entries of a wrong type show only here
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"{where}: expected the image processor of a Qwen2-VL, got {error}") from error
    if wrong:
        faults = [f"{name}: expected {_REQUIRED[name]}, got {values[name]!r}" for name in wrong]
        raise ValueError(
            f"{where}: the image processor is not the model's; put that of the model there:\n  " + "\n  ".join(faults)
        )
    return processor


def image_patches(image: Image.Image, processor: Qwen2VLImageProcessorPil) -> tuple[Patches, Grid]:
    """The patches of a still image of any mode, which is repeated in both frames of a patch."""
    outputs = processor(images=[to_rgb(image)])
    return outputs["pixel_values"], _grid(outputs)


def video_patches(frames: Sequence[Image.Image], processor: Qwen2VLImageProcessorPil) -> tuple[Patches, Grid]:
    """The patches of a video: each spans two frames, and an odd last frame is repeated.

    Frames are resized within the processor's limits for images.

    Raises:
        ValueError: there are no frames, or they differ in size.
    """
    sizes = {frame.size for frame in frames}
    if len(sizes) != 1:
        raise ValueError(f"a video: expected frames of one size, got {len(frames)} frames of sizes {sorted(sizes)}")
    even = [*frames, frames[-1]] if len(frames) % 2 else frames
    outputs = processor(images=[to_rgb(frame) for frame in even])
    _, rows, columns = _grid(outputs)
    # As an image, each frame is repeated in both frames of its patches: take the second one from the next frame.
    pairs = outputs["pixel_values"].reshape(-1, 2, rows * columns, 3, 2, PATCH_SIZE**2)
    patch = np.stack([pairs[:, 0, :, :, 0], pairs[:, 1, :, :, 1]], axis=-2)
    return patch.reshape(-1, PATCH_VALUES), (len(pairs), rows, columns)


def num_features(grid: Grid) -> int:
    """Vision features (merged patches) of an image or a video, one for each of its placeholder tokens."""
    return int(np.prod(grid)) // PATCHES_PER_FEATURE


def pack(
    visions: Sequence[tuple[Patches, Grid]], *, bucket: int, num_shards: int = 1
) -> tuple[PackedVision, list[int]]:
    """Concatenates the patches of images and videos, one row per shard, padded to a multiple of `bucket` patches.

    Images are assigned greedily, the largest first, to the shard with the fewest patches. A batch without images gets
    one bucket of padding.

    Returns:
        The packed patches, and for each image the index of its first vision feature in the flattened [Z, M/4].
    """
    sizes = [int(np.prod(grid)) for _, grid in visions]
    shard_of, offset_of, loads = _balance(sizes, num_shards)
    row_length = max(-(-max(loads) // bucket), 1) * bucket
    patch_ZMC = np.zeros((num_shards, row_length, PATCH_VALUES), np.float32)
    segment_ZM = np.zeros((num_shards, row_length), np.int32)
    position_ZM2 = np.zeros((num_shards, row_length, 2), np.int32)
    num_frames = 0
    for (patches, grid), shard, offset, size in zip(visions, shard_of, offset_of, sizes, strict=True):
        slots = shard, slice(offset, offset + size)
        patch_ZMC[slots] = patches
        segment_ZM[slots] = num_frames + 1 + np.repeat(np.arange(grid[0]), grid[1] * grid[2])
        position_ZM2[slots] = np.tile(_patch_positions(grid[1], grid[2]), (grid[0], 1))
        num_frames += grid[0]
    packed = PackedVision(patch_ZMC=patch_ZMC, segment_ZM=segment_ZM, position_ZM2=position_ZM2)
    first_patch = [shard * row_length + offset for shard, offset in zip(shard_of, offset_of, strict=True)]
    return packed, [first // PATCHES_PER_FEATURE for first in first_patch]


def _balance(sizes: Sequence[int], num_shards: int) -> tuple[list[int], list[int], list[int]]:
    """Shard of each image, its offset in that shard, and the number of patches of each shard.

    Greedy, the largest image first; within a shard images keep their order.
    """
    loads, shard_of = [0] * num_shards, [0] * len(sizes)
    for image in sorted(range(len(sizes)), key=lambda image: -sizes[image]):
        shard_of[image] = loads.index(min(loads))
        loads[shard_of[image]] += sizes[image]
    next_offset, offset_of = [0] * num_shards, []
    for shard, size in zip(shard_of, sizes, strict=True):
        offset_of.append(next_offset[shard])
        next_offset[shard] += size
    return shard_of, offset_of, loads


def _grid(outputs: Mapping[str, np.ndarray]) -> Grid:
    frames, rows, columns = (int(size) for size in outputs["image_grid_thw"][0])
    return frames, rows, columns


def _patch_positions(num_rows: int, num_columns: int) -> Int[np.ndarray, "M 2"]:
    """Row and column of every patch of a frame, in Qwen's order."""
    positions = np.moveaxis(np.indices((num_rows, num_columns)), 0, -1)
    squares = positions.reshape(num_rows // MERGE_SIZE, MERGE_SIZE, num_columns // MERGE_SIZE, MERGE_SIZE, 2)
    return squares.transpose(0, 2, 1, 3, 4).reshape(-1, 2)
