"""Placeholders of images in a problem: one `<image>` for each, in the order of the images."""

import re
from collections.abc import Sequence
from typing import TypeVar

IMAGE_PLACEHOLDER = "<image>"
_NUMBERED = re.compile(r"<image[ _]?(\d+)>")

Image = TypeVar("Image")


def match_placeholders(problem: str, images: Sequence[Image]) -> tuple[str, list[Image], str]:
    """Gives each image its placeholder.

    Without any, they are put first. Of more than there are images, the first ones stay. `<image 2>` stands for the
    second image, so that images may change their order; where it is named again, it becomes the words `image 2`.

    Returns:
        The problem, the images in the order of their placeholders, and what was changed, "" for nothing.

    Raises:
        ValueError: there are placeholders and no image, some and fewer than images, or a number that no image has.
    """
    if numbers := [int(number) for number in _NUMBERED.findall(problem)]:
        problem, images = _from_numbers(problem, images, numbers)
    num_placeholders = problem.count(IMAGE_PLACEHOLDER)
    if num_placeholders and not images:
        raise ValueError(f"its problem has {num_placeholders} {IMAGE_PLACEHOLDER} and there is no image")
    if 0 < num_placeholders < len(images):
        raise ValueError(
            f"expected one {IMAGE_PLACEHOLDER} for each of {len(images)} images, or none, got {num_placeholders}"
        )
    if num_placeholders == 0 and images:
        return IMAGE_PLACEHOLDER * len(images) + problem, list(images), "<image> was put first"
    if num_placeholders > len(images):
        *kept, rest = problem.split(IMAGE_PLACEHOLDER, len(images))
        problem = IMAGE_PLACEHOLDER.join([*kept, rest.replace(IMAGE_PLACEHOLDER, "")])
        return problem, list(images), "more <image> than images: the first were kept"
    return problem, list(images), ""


def _from_numbers(problem: str, images: Sequence[Image], numbers: Sequence[int]) -> tuple[str, list[Image]]:
    if IMAGE_PLACEHOLDER in problem:
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

    problem = _NUMBERED.sub(replace, problem)
    return IMAGE_PLACEHOLDER * len(rest) + problem, [images[number - 1] for number in (*rest, *order)]
