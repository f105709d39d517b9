"""Placeholders of images and videos in the texts of a record: one for each, in their order."""

import itertools
import re
from collections.abc import Sequence
from typing import TypeVar

IMAGE_PLACEHOLDER = "<image>"
VIDEO_PLACEHOLDER = "<video>"

Item = TypeVar("Item")


def match_placeholders(
    texts: Sequence[str], items: Sequence[Item], placeholder: str = IMAGE_PLACEHOLDER
) -> tuple[list[str], list[Item], str]:
    """Gives each image (or video) its placeholder in the texts of a conversation, which may be one.

    Without any, they are put first. Of more than there are images, the first ones stay. `<image 2>` stands for the
    second image, so that images may change their order; where it is named again, it becomes the words `image 2`.

    Returns:
        The texts, the images in the order of their placeholders, and what was changed, "" for nothing.

    Raises:
        ValueError: there are placeholders and no image, some and fewer than images, or a number that no image has.
    """
    kind = placeholder.strip("<>")
    texts, items = _from_numbers(texts, items, placeholder)
    number = sum(text.count(placeholder) for text in texts)
    if number and not items:
        raise ValueError(f"its problem has {number} {placeholder} and there is no {kind}")
    if 0 < number < len(items):
        raise ValueError(f"expected one {placeholder} for each of {len(items)} {kind}s, or none, got {number}")
    if number == 0 and items:
        return _put_first(texts, placeholder, len(items)), items, f"{placeholder} was put first"
    if number > len(items):
        change = f"more {placeholder} than {kind}s: the first were kept"
        return _keep_first(texts, placeholder, len(items)), items, change
    return texts, items, ""


def _from_numbers(texts: Sequence[str], items: Sequence[Item], placeholder: str) -> tuple[list[str], list[Item]]:
    """The texts with placeholders for numbers, and the items in their order."""
    kind = placeholder.strip("<>")
    numbered = re.compile(rf"<{kind}[ _]?(\d+)>")
    numbers = [int(number) for text in texts for number in numbered.findall(text)]
    if not numbers:
        return list(texts), list(items)
    if any(placeholder in text for text in texts):
        raise ValueError(f"its problem has both {placeholder} and <{kind} {numbers[0]}>")
    if wrong := [number for number in numbers if not 1 <= number <= len(items)]:
        raise ValueError(f"its problem has <{kind} {wrong[0]}> and there are {len(items)} {kind}s")
    order = list(dict.fromkeys(numbers))
    rest = [number for number in range(1, len(items) + 1) if number not in order]  # items that no number names
    waiting = set(order)

    def replace(match: re.Match[str]) -> str:
        number = int(match[1])
        if number not in waiting:
            return f"{kind} {number}"
        waiting.remove(number)
        return placeholder

    texts = _put_first([numbered.sub(replace, text) for text in texts], placeholder, len(rest))
    return texts, [items[number - 1] for number in (*rest, *order)]


def _put_first(texts: Sequence[str], placeholder: str, number: int) -> list[str]:
    return [placeholder * number + texts[0], *texts[1:]]


def _keep_first(texts: Sequence[str], placeholder: str, number: int) -> list[str]:
    position = itertools.count()
    return [re.sub(placeholder, lambda match: match[0] if next(position) < number else "", text) for text in texts]
