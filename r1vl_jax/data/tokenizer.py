"""Tokenizers: Qwen2's, read from a directory or the hub, or a small one trained for the embedded task."""

import os
from collections.abc import Iterable

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2Tokenizer

from r1vl_jax.rewards.text import Vocabulary

END_OF_TEXT = "<|endoftext|>"
END_OF_TURN = "<|im_end|>"
VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
IMAGE_TOKEN = "<|image_pad|>"
VIDEO_TOKEN = "<|video_pad|>"
VISION_TOKENS = (VISION_START, VISION_END, "<|vision_pad|>", IMAGE_TOKEN, VIDEO_TOKEN)  # never sampled
SPECIAL_TOKENS = (END_OF_TEXT, "<|im_start|>", END_OF_TURN, *VISION_TOKENS)

# Qwen2-VL's chat format, without its default system message. Each image or video is one placeholder token, which
# `data.prompts` repeats for every merged patch.
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
    """Trains a byte-level BPE, with Qwen2's pre-tokenizer, special tokens and chat template.

    Encoding and decoding gives back any text in Unicode's NFC form, whatever the tokenizer was trained on.

    Args:
        vocab_size: number of tokens, including the 256 bytes and the special tokens.
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
    """Reads a tokenizer that `save_pretrained` wrote, or one from the hub."""
    return AutoTokenizer.from_pretrained(directory_or_hub_name)


def end_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The end-of-turn and end-of-text tokens that the tokenizer has, with their ids."""
    ids = tokenizer.get_vocab()
    return {token: ids[token] for token in (str(tokenizer.eos_token), END_OF_TEXT) if token in ids}


def byte_table(tokenizer: PreTrainedTokenizerBase, vocab_size: int | None = None) -> Vocabulary:
    """The bytes of every token of a byte-level BPE; none for special tokens and for ids without a token.

    Args:
        vocab_size: the model's, which can exceed the tokenizer's; None for the tokenizer's.

    Raises:
        ValueError: the tokenizer is no byte-level BPE, or has ids beyond `vocab_size`.
    """
    text_of = {
        token_id: b"" if token.special else token.content.encode()
        for token_id, token in tokenizer.added_tokens_decoder.items()
    }
    byte_of = _byte_alphabet()
    for token, token_id in tokenizer.get_vocab().items():
        if token_id not in text_of:
            text_of[token_id] = _token_bytes(token, token_id, byte_of)
    num_tokens = max(text_of) + 1
    if vocab_size is not None and vocab_size < num_tokens:
        raise ValueError(
            f"byte_table: expected vocab_size to cover the tokenizer's {num_tokens} ids, got {vocab_size};"
            " give the model's"
        )
    texts = [text_of.get(token_id, b"") for token_id in range(vocab_size or num_tokens)]
    offset = np.cumsum([0, *map(len, texts)], dtype=np.int32)
    return Vocabulary(offset, np.frombuffer(b"".join(texts), np.uint8))


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's mapping from characters to bytes: printable Latin-1 stands for itself, other bytes for 256 and up."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + index): byte for index, byte in enumerate(hidden)}


def _token_bytes(token: str, token_id: int, byte_of: dict[str, int]) -> bytes:
    try:
        return bytes(byte_of[character] for character in token)
    except KeyError as error:
        raise ValueError(
            f"byte_table: token {token_id}, {token!r}, has the character {error}, which stands for no byte; expected a"
            " byte-level BPE, such as Qwen2's"
        ) from None
