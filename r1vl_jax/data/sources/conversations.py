"""Conversations: turns under any of the usual names, with texts or lists of parts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from r1vl_jax.data.placeholders import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER
from r1vl_jax.data.record import pair_turns
from r1vl_jax.data.sources.videos import VIDEO_KEYS

_ROLES = {
    **dict.fromkeys(("user", "human", "observation"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "chatgpt", "bot"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}

_TEXTS = ("text", "input_text", "output_text")

Held = dict[str, list[Any]]  # kind of picture -> what the parts of turns hold


@dataclass(frozen=True)
class Conversation:
    """The last question of a conversation, with what may stand before and behind it.

    Attributes:
        system: text of the system turns; "" without one.
        history: earlier questions, each with its answer.
        problem: text of the user's last turn, with `<image>` where a part is an image.
        response: text of the assistant's turn that follows it; "" without one.
        images, videos: what the parts hold, in their order; fewer than placeholders where the row has them elsewhere.
    """

    system: str
    history: tuple[tuple[str, str], ...]
    problem: str
    response: str
    images: tuple[Any, ...]
    videos: tuple[Any, ...]


def is_conversation(cell: Any) -> TypeGuard[list[Mapping[str, Any]]]:
    """Whether a cell is a list of turns."""
    return isinstance(cell, list) and bool(cell) and all(isinstance(turn, Mapping) and _role(turn) for turn in cell)


def parse_conversation(cell: Any) -> Conversation:
    """Reads a conversation, with or without a last answer.

    Raises:
        ValueError: it is none, has an unknown role or part, or turns of user and assistant that do not alternate.
    """
    if not is_conversation(cell):
        raise ValueError(f"expected a list of turns with role and content (or from and value), got {cell!r:.60}")
    held: Held = {"image": [], "video": []}
    turns = [_read_turn(turn, held) for turn in cell]
    system = "\n".join(text for role, text in turns if role == "system").strip()
    roles = [role for role, _ in turns if role != "system"]
    texts = [text for role, text in turns if role != "system"]
    if not roles or roles != [("user", "assistant")[number % 2] for number in range(len(roles))]:
        raise ValueError(
            f"expected the user and the assistant by turns, the user's first, got {', '.join(roles) or 'none':.80}"
        )
    response = texts.pop() if len(texts) % 2 == 0 else ""
    *earlier, problem = texts
    return Conversation(system, pair_turns(earlier), problem, response, tuple(held["image"]), tuple(held["video"]))


def _read_turn(turn: Mapping[str, Any], held: Held) -> tuple[str, str]:
    """Role and text; the images and videos of its parts are appended to `held`."""
    name = str(_role(turn)).lower()
    if (role := _ROLES.get(name)) is None:
        raise ValueError(f"a turn's role: expected one of {', '.join(_ROLES)}, got {name!r}")
    return role, _text(turn["content"] if "content" in turn else turn.get("value"), held)


def _role(turn: Mapping[str, Any]) -> Any:
    return turn.get("role") or turn.get("from")


def _text(content: Any, held: Held) -> str:
    """The text of a turn, with placeholders."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, list | tuple) else [content]
    return "".join(_part_text(part, held) for part in parts)


def _part_text(part: Any, held: Held) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    text = (part.get("text") or part.get("content") or "") if kind in _TEXTS else None
    if isinstance(text, str):
        return text
    if kind in ("image", "image_url", "input_image"):
        held["image"] += [part[key] for key in ("image", "image_url", "url", "path", "bytes") if part.get(key)][:1]
        return IMAGE_PLACEHOLDER
    if kind in ("video", "video_url", "input_video"):
        held["video"] += [part] if any(part.get(key) for key in VIDEO_KEYS) else []
        return VIDEO_PLACEHOLDER
    raise ValueError(f"a part of a turn: expected text, image, image_url or video, got {part!r:.60}")
