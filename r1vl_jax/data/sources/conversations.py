"""Conversations: turns under any of the usual names, with texts or lists of parts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from r1vl_jax.data.placeholders import IMAGE_PLACEHOLDER

_ROLES = {
    **dict.fromkeys(("user", "human", "observation"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "chatgpt", "bot"), "assistant"),
    "system": "system",
}


@dataclass(frozen=True)
class Conversation:
    """One question, with what may stand before and behind it.

    Attributes:
        system: text of the system turn; "" without one.
        problem: text of the user's turn, with `<image>` where a part is an image.
        response: text of the assistant's turn; "" without one.
        images: what the parts hold, in their order; fewer than placeholders where the row has them elsewhere.
    """

    system: str
    problem: str
    response: str
    images: tuple[Any, ...]


def is_conversation(cell: Any) -> TypeGuard[list[Mapping[str, Any]]]:
    """Whether a cell is a list of turns."""
    return isinstance(cell, list) and bool(cell) and all(isinstance(turn, Mapping) and _role(turn) for turn in cell)


def parse_conversation(cell: Any) -> Conversation:
    """Reads a conversation of one question.

    Raises:
        ValueError: it is none, an unknown role or part, or more than one question.
    """
    if not is_conversation(cell):
        raise ValueError(f"expected a list of turns with role and content (or from and value), got {cell!r:.60}")
    by_role: dict[str, list[str]] = {"system": [], "user": [], "assistant": []}
    images: list[Any] = []
    for turn in cell:
        name = str(_role(turn)).lower()
        if (role := _ROLES.get(name)) is None:
            raise ValueError(f"a turn's role: expected one of {', '.join(_ROLES)}, got {name!r}")
        by_role[role].append(_text(turn["content"] if "content" in turn else turn.get("value"), images))
    if len(by_role["user"]) != 1 or len(by_role["assistant"]) > 1:
        raise ValueError(
            "records are of one question: expected one turn of the user and at most one of the assistant, got"
            f" {len(by_role['user'])} and {len(by_role['assistant'])}"
        )
    system, response = "\n".join(by_role["system"]), "".join(by_role["assistant"])
    return Conversation(system.strip(), by_role["user"][0], response, tuple(images))


def _role(turn: Mapping[str, Any]) -> Any:
    return turn.get("role") or turn.get("from")


def _text(content: Any, images: list[Any]) -> str:
    """The text of a turn; the images of its parts are appended to `images`."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, list | tuple) else [content]
    return "".join(_part_text(part, images) for part in parts)


def _part_text(part: Any, images: list[Any]) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    text = (part.get("text") or part.get("content") or "") if kind == "text" else None
    if isinstance(text, str):
        return text
    if kind in ("image", "image_url", "input_image"):
        held = [part[key] for key in ("image", "image_url", "url", "path", "bytes") if part.get(key)]
        images.extend(held[:1])
        return IMAGE_PLACEHOLDER
    raise ValueError(f"a part of a turn: expected text, image or image_url, got {part!r:.60}")
