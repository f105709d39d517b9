"""Patches against transformers and by hand, and their packing into rows."""

import numpy as np
import pytest
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

from r1vl_jax.data.images import image_patches, load_image_processor, num_features, pack, video_patches

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


@pytest.fixture(scope="module")
def processor():
    return load_image_processor(min_pixels=28 * 28, max_pixels=400_000)


def checkerboard(rows: int, columns: int, frame: int = 0) -> Image.Image:
    """An image whose patch (r, c) has red 10 r, green 10 c and blue `frame`."""
    row, column = np.indices((rows, columns))
    colours = np.stack([10 * row, 10 * column, np.full_like(row, frame)], axis=-1).astype(np.uint8)
    return Image.fromarray(colours.repeat(14, axis=0).repeat(14, axis=1))


def colours(patches: np.ndarray) -> np.ndarray:
    """[M, 2, 3]: the colour of each patch in its two frames."""
    pixels = patches.reshape(-1, 3, 2, 14 * 14)
    assert np.ptp(pixels, axis=-1).max() < 1e-6
    return np.rint((pixels[..., 0].transpose(0, 2, 1) * STD + MEAN) * 255)


def test_patches_are_normalised_and_in_the_order_of_merged_squares(processor):
    patches, grid = image_patches(checkerboard(4, 6), processor)
    assert grid == (1, 4, 6)
    assert num_features(grid) == 6
    packed, starts = pack([(patches, grid)], bucket=32)
    assert starts == [0]
    np.testing.assert_array_equal(packed.position_ZM2[0, :4], [[0, 0], [0, 1], [1, 0], [1, 1]])
    for frame in (0, 1):  # the colour of a patch encodes its row and column
        np.testing.assert_array_equal(colours(patches)[:, frame, :2], 10 * packed.position_ZM2[0, :24])


def test_values_of_a_patch_are_ordered_by_channel_frame_row_column(processor):
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    patches, _ = image_patches(Image.fromarray(pixels), processor)
    expected = ((pixels[:14, 14:] / 255 - MEAN) / STD).transpose(2, 0, 1)  # the second patch: top right
    np.testing.assert_allclose(patches[1].reshape(3, 2, 14, 14), np.stack([expected, expected], axis=1), atol=1e-5)


@pytest.mark.parametrize("size", [(31, 45), (100, 30), (1000, 900)])
def test_patches_equal_transformers(size):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    expected = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=400_000)(images=[image])
    patches, grid = image_patches(image, load_image_processor(min_pixels=56 * 56, max_pixels=400_000))
    np.testing.assert_array_equal(patches, expected["pixel_values"])
    assert grid == tuple(expected["image_grid_thw"][0])


def test_pixel_limits_override_those_of_a_saved_processor(tmp_path):
    Qwen2VLImageProcessorPil().save_pretrained(tmp_path)
    processor = load_image_processor(tmp_path, min_pixels=28 * 28, max_pixels=56 * 56)
    assert image_patches(Image.new("RGB", (28, 28)), processor)[1] == (1, 2, 2)
    assert image_patches(Image.new("RGB", (560, 560)), processor)[1] == (1, 4, 4)


def test_patches_of_a_video_span_two_frames(processor):
    patches, grid = video_patches([checkerboard(2, 4, frame) for frame in (50, 60, 70)], processor)
    assert grid == (2, 2, 4)
    blue = colours(patches)[..., 2]
    np.testing.assert_array_equal(blue[:8], [[50, 60]] * 8)
    np.testing.assert_array_equal(blue[8:], [[70, 70]] * 8)  # the odd last frame is repeated


def test_frames_of_different_sizes_are_refused(processor):
    frames = [Image.new("RGB", (28, 28)), Image.new("RGB", (56, 28))]
    with pytest.raises(
        ValueError, match=r"expected frames of one size, got 2 frames of sizes \[\(28, 28\), \(56, 28\)\]"
    ):
        video_patches(frames, processor)
    with pytest.raises(ValueError, match="got 0 frames"):
        video_patches([], processor)


def test_images_are_packed_without_padding_between_them(processor):
    still = image_patches(checkerboard(2, 2), processor)
    video = video_patches([checkerboard(2, 4)] * 4, processor)
    packed, starts = pack([still, video, still], bucket=16)
    assert starts == [0, 1, 5]
    assert packed.patch_ZMC.shape == (1, 32, 1176)
    np.testing.assert_array_equal(packed.segment_ZM[0], [1] * 4 + [2] * 8 + [3] * 8 + [4] * 4 + [0] * 8)
    np.testing.assert_array_equal(packed.patch_ZMC[0, 20:24], still[0])
    np.testing.assert_array_equal(packed.position_ZM2[0, 12:20], packed.position_ZM2[0, 4:12])
    assert not packed.patch_ZMC[0, 24:].any()


def test_images_are_balanced_over_shards(processor):
    small, large = (image_patches(checkerboard(*size), processor) for size in ((2, 2), (2, 4)))
    packed, starts = pack([small, large, small], bucket=4, num_shards=2)
    assert packed.patch_ZMC.shape == (2, 8, 1176)
    assert starts == [2, 0, 3]  # features: the large one fills shard 0, the small ones shard 1
    for (patches, _), start in zip([small, large, small], starts, strict=True):
        slots = slice(4 * start, 4 * start + len(patches))
        np.testing.assert_array_equal(packed.patch_ZMC.reshape(-1, 1176)[slots], patches)
    np.testing.assert_array_equal(packed.segment_ZM, [[2] * 8, [1] * 4 + [3] * 4])


def test_a_batch_without_images_gets_one_bucket_of_padding():
    packed, starts = pack([], bucket=8)
    assert starts == []
    assert packed.patch_ZMC.shape == (1, 8, 1176)
    assert not packed.segment_ZM.any()
