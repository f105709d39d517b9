"""What a model's chat template does: whether it knows pictures, how it ends a turn, and what ends a completion."""

import json
import os
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from r1vl_jax.data.tokenizer import IMAGE_TOKEN, end_tokens

_QUESTION, _ANSWER = "Which is it?", "This one."
_USER = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": _QUESTION}, {"type": "image"}]}


def template_fault(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Why prompts with pictures cannot be written in the tokenizer's chat template; None if they can."""
    if not tokenizer.chat_template:
        return "there is none"
    text, error = _render(tokenizer, [_USER], add_generation_prompt=True)
    if error is not None:
        return f"it fails on a turn with pictures ({error})"
    if text.count(IMAGE_TOKEN) != 2:
        return f"it knows no pictures: a turn with two of them has {text.count(IMAGE_TOKEN)} {IMAGE_TOKEN}"
    if text.count(_QUESTION) != 1:
        return "it leaves out the text of a turn with pictures"
    return None


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends a response: the special one that the chat template puts there, else the tokenizer's eos.

    Raises:
        ValueError: there is neither.
    """
    turns = [_USER, {"role": "assistant", "content": _ANSWER}]
    text, _ = _render(tokenizer, turns) if tokenizer.chat_template else ("", None)
    before, _, after = text.rpartition(_ANSWER)
    following = tokenizer(after)["input_ids"] if before and after else []
    if following and (token := tokenizer.added_tokens_decoder.get(following[0])) and token.special:
        return following[0]
    for token_id in end_tokens(tokenizer).values():
        return token_id
    raise ValueError(
        "the tokenizer: expected an eos_token, or a chat template that ends a turn with a token; got neither"
    )


def eos_token_ids(tokenizer: PreTrainedTokenizerBase, directory: str | os.PathLike | None = None) -> list[int]:
    """The ids that end a completion, each once: any of them does.

    First the token that ends a response of the warm-up (`end_of_turn_id`), then the tokenizer's eos token, then
    `eos_token_id` of generation_config.json; without that the end-of-text token.

    Args:
        directory: holds the weights and generation_config.json, which `model_config` has validated; None for random
            weights.
    """
    path = None if directory is None else Path(directory) / "generation_config.json"
    stated = json.loads(path.read_text("utf-8")).get("eos_token_id") if path is not None and path.is_file() else None
    if stated is None:
        stated = list(end_tokens(tokenizer).values())
    ids = [end_of_turn_id(tokenizer), tokenizer.eos_token_id, *([stated] if isinstance(stated, int) else stated)]
    return list(dict.fromkeys(token_id for token_id in ids if token_id is not None))


def _render(tokenizer: Any, turns: list[dict[str, Any]], **options: bool) -> tuple[str, str | None]:
    """The turns as text; without it the error of the template."""
    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, **options), None
    except Exception as error:  # a template is a program, and may raise anything
        return "", f"{type(error).__name__}: {' '.join(str(error).split())}"
