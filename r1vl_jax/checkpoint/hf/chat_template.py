"""A checkpoint's tokenizer with its chat template, which may be in any of five places."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from r1vl_jax.checkpoint.hf.directory import read_json
from r1vl_jax.data.tokenizer import load_tokenizer

# In the order of precedence, which is that of transformers' processors.
_OF_PROCESSOR, _RAW, _PROCESSOR, _TOKENIZER = (
    "chat_template.json",
    "chat_template.jinja",
    "processor_config.json",
    "tokenizer_config.json",
)
ADDITIONAL = "additional_chat_templates"  # a directory
_ENTRY, _DEFAULT = "chat_template", "default"


@dataclass(frozen=True)
class ChatTemplate:
    """A template in Jinja, and the file that it stands in."""

    text: str
    file: Path


def load_chat_tokenizer(directory: Path) -> tuple[PreTrainedTokenizerBase, ChatTemplate | None]:
    """The tokenizer of a checkpoint with its chat template, and where this stands; without one the tokenizer has none.

    Raises:
        ValueError: as `find_chat_template`.
    """
    tokenizer, template = load_tokenizer(directory), find_chat_template(directory)
    tokenizer.chat_template = None if template is None else template.text
    return tokenizer, template


def find_chat_template(directory: Path) -> ChatTemplate | None:
    """The template for pictures and text: the processor's where it has one, else the tokenizer's.

    A file of `additional_chat_templates` is taken only if there is no other, and if it is the only one or "default".

    Returns:
        None if there is no template.

    Raises:
        ValueError: a file is no JSON, or there are several templates and none is the default.
    """
    for name in (_OF_PROCESSOR, _RAW, _PROCESSOR, _TOKENIZER):
        if not (path := directory / name).is_file():
            continue
        text = path.read_text("utf-8") if name == _RAW else _default(read_json(directory, name).get(_ENTRY))
        if text:
            return ChatTemplate(text, path)
    files = {path.stem: path for path in sorted((directory / ADDITIONAL).glob("*.jinja"))}
    if len(files) > 1 and _DEFAULT not in files:
        raise ValueError(
            f"{directory / ADDITIONAL}: expected one chat template or one called {_DEFAULT}, got {', '.join(files)};"
            f" copy the one that is meant to {directory / _RAW}"
        )
    path = files.get(_DEFAULT) or next(iter(files.values()), None)
    return None if path is None else ChatTemplate(path.read_text("utf-8"), path)


def _default(entry: Any) -> str:
    """The default of an entry `chat_template`, which is a template or a list of named ones; "" if there is none."""
    if isinstance(entry, list):
        entry = {each.get("name"): each.get("template") for each in entry if isinstance(each, dict)}
    if isinstance(entry, dict):
        entry = entry.get(_DEFAULT)
    return entry if isinstance(entry, str) else ""
