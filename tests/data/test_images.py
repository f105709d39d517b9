"""Patches against transformers and by hand, and their packing into rows."""

import io
import json
from pathlib import Path

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


# The limits in the files of models, in the spellings of their time; 12,845,056 pixels are 16,384 image tokens.
PUBLISHED = {
    "2024": {"min_pixels": 3136, "max_pixels": 12845056, "size": {"max_pixels": 12845056, "min_pixels": 3136}},
    "2025": {"min_pixels": 3136, "max_pixels": 12845056},
    "transformers 5": {"size": {"shortest_edge": 3136, "longest_edge": 12845056}},
    "both": {"min_pixels": 1, "max_pixels": 10**9, "size": {"shortest_edge": 3136, "longest_edge": 12845056}},
    "null": {"min_pixels": None, "max_pixels": None, "size": None},
    "none": {},
}


def write_processor(directory: Path, name: str = "preprocessor_config.json", **entries) -> None:
    """A file as published beside Qwen2-VL-7B-Instruct."""
    published = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": MEAN.tolist(),
        "image_processor_type": "Qwen2VLImageProcessor",
        "image_std": STD.tolist(),
        "merge_size": 2,
        "patch_size": 14,
        "processor_class": "Qwen2VLProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "temporal_patch_size": 2,
    } | entries
    content = published if name == "preprocessor_config.json" else {"image_processor": published}
    (directory / name).write_text(json.dumps(content))


@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
@pytest.mark.parametrize("limits", PUBLISHED)
def test_the_pixel_limits_are_those_of_the_configuration(limits: str, file: str, tmp_path: Path):
    write_processor(tmp_path, file, **PUBLISHED[limits])
    processor = load_image_processor(tmp_path, min_pixels=28 * 28, max_pixels=400_000)
    assert image_patches(Image.new("RGB", (28, 28)), processor)[1] == (1, 2, 2)
    grid = image_patches(Image.new("RGB", (1000, 1000)), processor)[1]
    assert (grid, num_features(grid)) == ((1, 44, 44), 484)


@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
def test_an_image_processor_that_is_not_the_models_is_refused_by_name(file: str, tmp_path: Path):
    write_processor(tmp_path, file, patch_size=16, merge_size=1, temporal_patch_size=None, do_resize=False)
    with pytest.raises(ValueError, match=f"{tmp_path}: preprocessor_config.json, or image_processor in") as error:
        load_image_processor(tmp_path, min_pixels=784, max_pixels=784)
    assert str(error.value).splitlines()[1:] == [
        "  patch_size: expected 14, got 16",
        "  temporal_patch_size: expected 2, got None",
        "  merge_size: expected 2, got 1",
        "  do_resize: expected True, got False",
    ]


@pytest.mark.parametrize("content", ["{", "[1]", '{"image_mean": "a"}', '{"rescale_factor": "a"}'])
def test_an_unreadable_image_processor_is_refused_by_name(content: str, tmp_path: Path):
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(ValueError, match="preprocessor_config.json, or image_processor in processor_config.json: exp"):
        load_image_processor(tmp_path, min_pixels=784, max_pixels=784)


def test_pictures_are_brought_to_8_bits_and_turned_before_they_are_resized(processor):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (112, 56)).save(file, "JPEG", exif=exif)
    assert image_patches(Image.open(file), processor)[1] == (1, 8, 4)
    deep = Image.fromarray(np.full((28, 28), 128 * 257, np.uint16))
    for patches, _ in (image_patches(deep, processor), video_patches([deep, deep], processor)):
        assert (colours(patches) == 128).all()


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
