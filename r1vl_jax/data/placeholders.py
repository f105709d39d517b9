"""Placeholders of images in the texts of a record: one `<image>` for each, in the order of the images."""

import itertools
import re
from collections.abc import Sequence
from typing import TypeVar

IMAGE_PLACEHOLDER = "<image>"
_NUMBERED = re.compile(r"<image[ _]?(\d+)>")

Image = TypeVar("Image")


def match_placeholders(texts: Sequence[str], images: Sequence[Image]) -> tuple[list[str], list[Image], str]:
    """Gives each image its placeholder in the texts of a conversation, which may be one.

    Without any, they are put first. Of more than there are images, the first ones stay. `<image 2>` stands for the
    second image, so that images may change their order; where it is named again, it becomes the words `image 2`.

    Returns:
        The texts, the images in the order of their placeholders, and what was changed, "" for nothing.

    Raises:
        ValueError: there are placeholders and no image, some and fewer than images, or a number that no image has.
    """
    if numbers := [int(number) for text in texts for number in _NUMBERED.findall(text)]:
        texts, images = _from_numbers(texts, images, numbers)
    num_placeholders = _count(texts)
    if num_placeholders and not images:
        raise ValueError(f"its problem has {num_placeholders} {IMAGE_PLACEHOLDER} and there is no image")
    if 0 < num_placeholders < len(images):
        raise ValueError(
            f"expected one {IMAGE_PLACEHOLDER} for each of {len(images)} images, or none, got {num_placeholders}"
        )
    if num_placeholders == 0 and images:
        return _put_first(texts, len(images)), list(images), "<image> was put first"
    if num_placeholders > len(images):
        return _keep_first(texts, len(images)), list(images), "more <image> than images: the first were kept"
    return list(texts), list(images), ""


def _from_numbers(
    texts: Sequence[str], images: Sequence[Image], numbers: Sequence[int]
) -> tuple[list[str], list[Image]]:
    if _count(texts):
        raise ValueError(f"its problem has both {IMAGE_PLACEHOLDER} and <image {numbers[0]}>")
    if wrong := [number for number in numbers if not 1 <= number <= len(images)]:
        raise ValueError(f"its problem has <image {wrong[0]}> and there are {len(images)} images")
    order = list(dict.fromkeys(numbers))
    rest = [number for number in range(1, len(images) + 1) if number not in order]  # images that no number names
    waiting = set(order)

    def replace(match: re.Match[str]) -> str:
        number = int(match[1])
        if number not in waiting:
            return f"image {number}"
        waiting.remove(number)
        return IMAGE_PLACEHOLDER

    texts = _put_first([_NUMBERED.sub(replace, text) for text in texts], len(rest))
    return texts, [images[number - 1] for number in (*rest, *order)]


def _put_first(texts: Sequence[str], number: int) -> list[str]:
    return [IMAGE_PLACEHOLDER * number + texts[0], *texts[1:]]


def _keep_first(texts: Sequence[str], number: int) -> list[str]:
    position = itertools.count()
    return [
        re.sub(IMAGE_PLACEHOLDER, lambda match: match[0] if next(position) < number else "", text) for text in texts
    ]


def _count(texts: Sequence[str]) -> int:
    return sum(text.count(IMAGE_PLACEHOLDER) for text in texts)
