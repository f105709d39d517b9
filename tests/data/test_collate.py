"""Collation: M-RoPE positions against transformers, token types and padding."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

from r1vl_jax.data.collate import pad_rows, rope_positions, token_types


def transformers_positions(type_PS, mask_PS, image_grids, video_grids, cls=Qwen2VLModel, **seconds):
    vision_config = SimpleNamespace(spatial_merge_size=2, tokens_per_second=TOKENS_PER_SECOND)
    model = SimpleNamespace(config=SimpleNamespace(vision_config=vision_config))
    model.get_vision_position_ids = functools.partial(cls.get_vision_position_ids, model)
    position, delta = cls.get_rope_index(
        model,
        torch.zeros(type_PS.shape, dtype=torch.long),
        torch.tensor(type_PS),
        image_grid_thw=torch.tensor(image_grids).reshape(-1, 3),
        video_grid_thw=torch.tensor(video_grids).reshape(-1, 3),
        attention_mask=torch.tensor(mask_PS),
        **seconds,
    )
    return position.numpy(), delta[:, 0].numpy() + mask_PS.sum(axis=1)


TOKENS_PER_SECOND = 3
CASES = {
    "text": ([[0] * 5], [], []),
    "an image": ([[0] * 3 + [1] * 6 + [0] * 4], [(1, 4, 6)], []),
    "two images of different size": ([[0, *[1] * 8, 0, 0, *[1] * 2, 0]], [(1, 4, 8), (1, 2, 4)], []),
    "a video": ([[0, 0, *[2] * 12, 0]], [], [(3, 4, 4)]),
    "a long video of small frames": ([[0, *[2] * 5, 0, 0]], [], [(5, 2, 2)]),
    "ends with an image": ([[0, *[1] * 6]], [(1, 4, 6)], []),
    "different numbers of images": (
        [[0, 1, 0, 1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 0, *[2] * 4, 0]],
        [(1, 2, 2), (1, 4, 2), (1, 2, 4)],
        [(1, 4, 4)],
    ),
}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("case", CASES)
def test_mrope_positions_equal_transformers(case, side):
    rows, image_grids, video_grids = CASES[case]
    width = max(map(len, rows)) + 2
    type_PS = pad_rows([np.array(row) for row in rows], width, side=side, value=0)
    mask_PS = pad_rows([np.ones(len(row), bool) for row in rows], width, side=side, value=0)
    position, next_position = rope_positions(type_PS, mask_PS, image_grids=image_grids, video_grids=video_grids)
    expected_position, expected_next_position = transformers_positions(type_PS, mask_PS, image_grids, video_grids)
    np.testing.assert_array_equal(position, expected_position)
    np.testing.assert_array_equal(next_position, expected_next_position)


@pytest.mark.parametrize("seconds", [[0.5, 2.0], [0.7, 1 / 3], [0.0, 40.0]])
def test_mrope_positions_of_videos_in_absolute_time_equal_transformers(seconds):
    """Two videos with an image between them; fractional, zero and large intervals."""
    type_PS = np.array([[0, 0, *[2] * 8, 0, 1, 0, 0], [*[2] * 9, 0, 0, 0, 0, 0]])
    mask_PS = np.arange(14)[None] < np.array([[14], [11]])
    image_grids, video_grids = [(1, 2, 2)], [(4, 2, 4), (9, 2, 2)]
    interval = TOKENS_PER_SECOND * np.array(seconds, np.float32)
    position, next_position = rope_positions(
        type_PS, mask_PS, image_grids=image_grids, video_grids=video_grids, video_intervals=interval
    )
    expected_position, expected_next_position = transformers_positions(
        type_PS, mask_PS, image_grids, video_grids, Qwen2_5_VLModel, second_per_grid_ts=torch.tensor(seconds)
    )
    np.testing.assert_array_equal(position, expected_position)
    np.testing.assert_array_equal(next_position, expected_next_position)


def test_token_types():
    types = token_types(np.array([5, 7, 8, 7]), image_token_id=7, video_token_id=8)
    np.testing.assert_array_equal(types, [0, 1, 2, 1])


def test_rows_are_padded_on_the_given_side():
    rows = [np.array([1, 2]), np.array([3])]
    np.testing.assert_array_equal(pad_rows(rows, 3, side="left", value=9), [[9, 1, 2], [9, 9, 3]])
    np.testing.assert_array_equal(pad_rows(rows, 3, side="right", value=9), [[1, 2, 9], [3, 9, 9]])
