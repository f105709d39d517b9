"""A tool as an example: the policy looks closer at a part of a picture.

train.rollout_func="r1vl_jax.tools.loop:ToolLoop"
train.rollout_args='{"tools": ["r1vl_jax.tools.crop:crop"]}'
"""

from PIL import Image

_LONG_SIDE = 448  # pixels of an enlarged part


def crop(
    left: float, top: float, right: float, bottom: float, images: list[Image.Image], image: int = 1
) -> Image.Image:
    """Cuts a part out of a picture and enlarges it.

    Args:
        left: the part's left edge as a fraction of the picture's width, from 0 to 1.
        top: its upper edge as a fraction of the height.
        right: its right edge as a fraction of the width.
        bottom: its lower edge as a fraction of the height.
        images: the pictures so far.
        image: the number of the picture, from 1.
    """
    if not 1 <= image <= len(images):
        raise ValueError(f"image: expected a number from 1 to {len(images)}, got {image}")
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(
            "expected 0 <= left < right <= 1 and 0 <= top < bottom <= 1,"
            f" got left={left}, top={top}, right={right}, bottom={bottom}"
        )
    picture = images[image - 1]
    width, height = picture.size
    box = round(left * width), round(top * height), round(right * width), round(bottom * height)
    part = picture.crop((*box[:2], max(box[2], box[0] + 1), max(box[3], box[1] + 1)))
    scale = _LONG_SIDE / max(part.size)
    size = max(round(part.width * scale), 1), max(round(part.height * scale), 1)
    return part.resize(size, Image.Resampling.BICUBIC)
