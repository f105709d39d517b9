"""Key steps in the layouts that data sets have."""

import json
from collections.abc import Mapping
from typing import Any

from r1vl_jax.rewards.normal_form import normal_form
from r1vl_jax.rewards.strings import to_bytes

_LAYOUTS = "a group is a text or a list of texts ({'Steps': [...]} is read, too)"


def parse_key_steps(key_steps: Any) -> tuple[tuple[str, ...], ...]:
    """Groups of equivalent spellings, without those that are empty in normal form: one variant finds "" in any path.

    Args:
        key_steps: a list of groups, or `{"Steps": [...]}` as in R1-VL's data, or the JSON text of either. A group is a
            list of spellings; a bare text is a group of one.

    Raises:
        ValueError: it is none of these.
    """
    groups = (tuple(filter(_is_text, group)) for group in read_groups(key_steps))
    return tuple(filter(None, groups))


def read_groups(key_steps: Any) -> tuple[tuple[str, ...], ...]:
    """As `parse_key_steps`, with the empty ones."""
    groups = _parse_json(key_steps) if isinstance(key_steps, str) else key_steps
    groups = groups.get("Steps") if isinstance(groups, Mapping) else groups
    if not isinstance(groups, list | tuple):
        raise ValueError(f"expected a list of groups, got {key_steps!r:.80}; give [] where there are none; {_LAYOUTS}")
    return tuple(_parse_group(group, number) for number, group in enumerate(groups, start=1))


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _is_text(spelling: str | bytes) -> bool:
    return normal_form(to_bytes(spelling)) != b""


def _parse_group(group: Any, number: int) -> tuple[str, ...]:
    if isinstance(group, str):
        return (group,)
    if isinstance(group, list | tuple) and all(isinstance(spelling, str | bytes) for spelling in group):
        return tuple(group)
    raise ValueError(f"expected a list of groups, got {group!r:.80} as group {number}; {_LAYOUTS}")
