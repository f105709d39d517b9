"""Whole checkpoints of tiny models, written by transformers: large random weights, tokenizer, image processor."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from helpers.twins import ARCHITECTURES
from transformers import PreTrainedModel, Qwen2VLImageProcessorPil

from r1vl_jax.checkpoint.hf.config import to_hf
from r1vl_jax.checkpoint.model_config import model_config
from r1vl_jax.config import Model
from r1vl_jax.data.tokenizer import train_tokenizer

PRESETS = {"qwen2_vl": "tiny", "qwen2_5_vl": "2.5-tiny"}
MIN_PIXELS, MAX_PIXELS = 784, 1_003_520


def write_chat_model(
    directory: Path,
    architecture: str = "qwen2_vl",
    *,
    texts: Sequence[str] = ("How many squares are there? What is the value?",) * 9,
) -> PreTrainedModel:
    """Writes a model and returns it; its end tokens are <|im_end|> and <|endoftext|>.

    Args:
        texts: that its tokenizer is trained on.
    """
    tokenizer = train_tokenizer(texts, vocab_size=300)
    sizes = to_hf(model_config(Model(preset=PRESETS[architecture]), tokenizer))
    family = ARCHITECTURES[architecture]
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    torch_model = family.model(family.config(**sizes, **ends)).eval()
    with torch.no_grad():
        for name, parameter in torch_model.named_parameters():
            # Large enough that answers depend on the pictures.
            is_norm_scale = re.search(r"norm.*weight|ln_q\.weight", name) is not None
            parameter.normal_(mean=1.0 if is_norm_scale else 0.0, std=0.15)
    torch_model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    torch_model.generation_config.pad_token_id = tokenizer.pad_token_id
    torch_model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    Qwen2VLImageProcessorPil(min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS).save_pretrained(directory)
    return torch_model
