"""Tokenizers: Qwen2's own, read from a directory or the hub, or a small one trained for the embedded task."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Int
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2Tokenizer

END_OF_TEXT = "<|endoftext|>"
END_OF_TURN = "<|im_end|>"
VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
IMAGE_TOKEN = "<|image_pad|>"
VIDEO_TOKEN = "<|video_pad|>"
VISION_TOKENS = (VISION_START, VISION_END, "<|vision_pad|>", IMAGE_TOKEN, VIDEO_TOKEN)  # never in a completion
SPECIAL_TOKENS = (END_OF_TEXT, "<|im_start|>", END_OF_TURN, *VISION_TOKENS)

# Turns of a conversation, as Qwen2-VL was trained to see them; an image or a video is one placeholder token here.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == "text" -%}
{{ part.text }}
{%- else -%}
<|vision_start|><|{{ part.type }}_pad|><|vision_end|>
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def train_tokenizer(texts: Iterable[str], *, vocab_size: int = 512) -> PreTrainedTokenizerBase:
    """Trains a byte-level BPE on texts, with Qwen2's splitting into words, special tokens and turns.

    Every text in Unicode's NFC form survives encoding and decoding unchanged, whatever it was trained on.

    Args:
        vocab_size: tokens, the 256 bytes and the special tokens included.
    """
    untrained = Qwen2Tokenizer(
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        extra_special_tokens=list(SPECIAL_TOKENS),
        clean_up_tokenization_spaces=False,
    )
    tokenizer = untrained.train_new_from_iterator(texts, vocab_size=vocab_size, show_progress=False)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def load_tokenizer(directory_or_hub_name: str | os.PathLike) -> PreTrainedTokenizerBase:
    """Reads a tokenizer saved by `save_pretrained`, or one of the hub."""
    return AutoTokenizer.from_pretrained(directory_or_hub_name)


def eos_token_ids(tokenizer: PreTrainedTokenizerBase, directory: str | os.PathLike | None = None) -> list[int]:
    """The ids that end a completion: those of the generation config beside the weights, else the tokenizer's.

    Args:
        directory: of the weights; None if there are none yet.
    """
    path = None if directory is None else Path(directory) / "generation_config.json"
    eos = json.loads(path.read_text()).get("eos_token_id") if path is not None and path.is_file() else None
    if eos is not None:
        return [eos] if isinstance(eos, int) else eos
    return [tokenizer.get_vocab()[token] for token in (str(tokenizer.eos_token), END_OF_TEXT)]


def token_sizes(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Int[np.ndarray, " V"]:
    """How many bytes of text each id of a byte-level vocabulary stands for; 0 for special tokens and unused ids."""
    size_V = np.zeros(vocab_size, np.int32)
    for token, index in tokenizer.get_vocab().items():
        size_V[index] = len(token)  # one character for a byte
    for index, added in tokenizer.added_tokens_decoder.items():
        size_V[index] = 0 if added.special else len(added.content.encode())
    return size_V
