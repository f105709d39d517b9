"""Tiny transformers models with large random weights, the same models loaded by this package, and inputs for both."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from r1vl_jax.chat.pretrained import Pretrained, load

Grid = tuple[int, int, int]  # frames, rows and columns, in patches

IMAGE, VIDEO, VISION_START, VISION_END = 90, 91, 92, 93
NUM_TEXT_TOKENS = 80  # ids below it are plain text


@dataclass(frozen=True)
class Architecture:
    """A model family in transformers, and the configuration of a small vision tower of it."""

    config: type
    model: type[PreTrainedModel]
    vision: dict[str, Any]


ARCHITECTURES = {
    "qwen2_vl": Architecture(
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        {"depth": 2, "embed_dim": 16, "num_heads": 2, "hidden_size": 32, "mlp_ratio": 2},
    ),
    "qwen2_5_vl": Architecture(
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        {
            "depth": 3,
            "hidden_size": 16,
            "num_heads": 2,
            "intermediate_size": 24,
            "out_hidden_size": 32,
            "window_size": 56,  # 4 patches
            "fullatt_block_indexes": [1],
            "tokens_per_second": 3,
        },
    ),
}


@dataclass(frozen=True)
class Twins:
    """The same weights in both implementations."""

    torch_model: PreTrainedModel
    ours: Pretrained


def make_twins(directory: Path, *, tie_word_embeddings: bool, architecture: str = "qwen2_vl") -> Twins:
    """Saves a torch model to an empty directory and loads it from there with this package."""
    torch_model = make_torch_model(architecture=architecture, tie_word_embeddings=tie_word_embeddings)
    torch_model.save_pretrained(directory)
    return Twins(torch_model, load(str(directory)))


def make_torch_model(*, tie_word_embeddings: bool, architecture: str = "qwen2_vl") -> PreTrainedModel:
    family = ARCHITECTURES[architecture]
    text = {
        "vocab_size": 100,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1000.0},
    }
    config = family.config(
        text_config=text,
        vision_config=family.vision,
        tie_word_embeddings=tie_word_embeddings,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
    )
    torch.manual_seed(0)
    torch_model = family.model(config).eval()
    with torch.no_grad():
        for name, parameter in torch_model.named_parameters():
            # Large enough that every part of the model affects the result.
            is_norm_scale = re.search(r"norm.*weight|ln_q\.weight", name) is not None
            parameter.normal_(mean=1.0 if is_norm_scale else 0.0, std=0.2)
    return torch_model


def make_inputs(
    grids_of_rows: list[list[Grid]], *, padding_side: str = "left", is_video: bool = False
) -> dict[str, np.ndarray]:
    """What a Hugging Face processor returns for a batch: one row of text and images for each list of grids."""
    rng = np.random.default_rng(1)
    vision_id = VIDEO if is_video else IMAGE
    rows = [_row(grids, vision_id, num_text_tokens=3 + 2 * i, rng=rng) for i, grids in enumerate(grids_of_rows)]
    length = max(map(len, rows))
    token_BT, mask_BT = np.zeros((2, len(rows), length), np.int64)
    for row, token_T, mask_T in zip(rows, token_BT, mask_BT, strict=True):
        columns = slice(length - len(row), None) if padding_side == "left" else slice(len(row))
        token_T[columns], mask_T[columns] = row, 1
    type_BT = np.where(token_BT == IMAGE, 1, np.where(token_BT == VIDEO, 2, 0))
    inputs = {"input_ids": token_BT, "attention_mask": mask_BT, "mm_token_type_ids": type_BT}
    if grids := [grid for grids in grids_of_rows for grid in grids]:
        patch_MC = rng.normal(size=(sum(map(math.prod, grids)), 3 * 2 * 14 * 14)).astype(np.float32)
        names = ("pixel_values_videos", "video_grid_thw") if is_video else ("pixel_values", "image_grid_thw")
        inputs |= dict(zip(names, (patch_MC, np.array(grids)), strict=True))
    return inputs


def to_torch(inputs: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.as_tensor(array) for name, array in inputs.items()}


def _row(grids: list[Grid], vision_id: int, *, num_text_tokens: int, rng: np.random.Generator) -> list[int]:
    row = rng.integers(1, NUM_TEXT_TOKENS, num_text_tokens).tolist()
    for grid in grids:
        row += [VISION_START, *[vision_id] * (math.prod(grid) // 4), VISION_END, *rng.integers(1, NUM_TEXT_TOKENS, 2)]
    return row
