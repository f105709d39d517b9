"""Pictures as their owner sees them: every file that Pillow opens becomes 8-bit RGB, upright and on white.

Pillow's own `convert("RGB")` drops transparency (the colour below is mostly black), leaves a photograph as the camera
held it, and cuts off all values above 255.
"""

import io
import itertools
import logging
import re
import struct
import zlib
from typing import Any

import numpy as np
from jaxtyping import Num, UInt8
from PIL import ExifTags, Image, ImageChops

# How to turn the stored picture, for each EXIF orientation but 1, which is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # a tag of TIFF, which Pillow minds for 8 bits only
_WHITE = 255
_ADDRESS = re.compile(r" <[^<>]* at 0x[0-9a-f]+>")  # of an object in Pillow's messages
# What Pillow's decoders raise for damaged files.
_DAMAGED = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError),
    *(AssertionError, AttributeError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError),
)

_animations = itertools.count()  # a counter's next number is one step, in whatever thread


def open_picture(encoded: bytes, *, name: str) -> Image.Image:
    """Decodes an image file as `to_rgb` says; of animations and of several pages the first is taken.

    Args:
        name: of the picture, for the message that says so; there is one for all animations of a process.

    Raises:
        ValueError: the file is no picture, or damaged; says why, without a name.
    """
    try:
        image = Image.open(io.BytesIO(encoded))
        if getattr(image, "is_animated", False) and next(_animations) == 0:
            logging.getLogger(__name__).warning(
                "%s has several frames or pages: of every such picture the first is taken (said once)", name
            )
        return to_rgb(image)
    except _DAMAGED as error:
        raise ValueError(_ADDRESS.sub("", str(error)) or type(error).__name__) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any of Pillow's modes in 8-bit RGB, as a viewer shows it; such an image is itself.

    - Transparency, in whatever form, is put on white.
    - EXIF's orientation is applied.
    - Integers of more than 8 bits are scaled from their own depth (16 bits: value // 257); negative ones are black. An
      image of mode "I" that no file says the depth of has 16 bits.
    - Floating-point numbers are multiplied by 255 if all are in [0, 1], else stretched from the least to the largest (a
      constant is black). NaN is black, and infinities are black or white.
    - Other modes are Pillow's own conversion.
    """
    raw_mode = _raw_mode(image)  # known until the file is loaded
    image.load()
    if image.mode == "RGB" and not image.info:
        return image
    rgb = _upright(_convert(image, raw_mode), image)
    rgb.info = {}  # what it says holds no longer, and must not be applied again
    return rgb


def _raw_mode(image: Image.Image) -> str:
    """How the file holds the pixels, as Pillow calls it ("I;12", "L;4"); "" where it does not say."""
    tiles: Any = getattr(image, "tile", None)  # an image in memory has none
    arguments = tiles[0][3] if tiles else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _convert(image: Image.Image, raw_mode: str) -> Image.Image:
    """`to_rgb` without the orientation."""
    if image.mode.startswith("I"):
        return _with_key_white(_from_integers(image, raw_mode), image, raw_mode)
    if image.mode == "F":
        return Image.fromarray(_from_floats(image)).convert("RGB")
    if image.mode in ("RGBa", "La"):  # colours are multiplied by alpha already
        *channels, alpha = image.split()
        on_white = [ImageChops.add(channel, ImageChops.invert(alpha)) for channel in channels]
        return Image.merge("RGB", on_white * (3 // len(on_white)))
    if image.mode in ("RGBA", "LA", "PA") or (image.mode == "P" and image.has_transparency_data):
        rgba = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(rgba, mask=rgba.getchannel("A"))
        return canvas
    if image.mode in ("1", "L", "RGB") and "transparency" in image.info:
        pixels = np.array(image if image.mode == "RGB" else image.convert("L"))
        return _with_key_white(pixels, image, raw_mode)
    return image.convert("RGB")


def _with_key_white(pixels: UInt8[np.ndarray, "H W *C"], image: Image.Image, raw_mode: str) -> Image.Image:
    """The pixels as an image, with those of the one colour that the file declares transparent, if any, in white."""
    key = image.info.get("transparency")
    if isinstance(key, int) or (image.mode == "RGB" and isinstance(key, tuple) and len(key) == 3):
        # Pillow scales the pixels of these files to 8 bits, and not the key.
        factor, divisor = {"L;2": (85, 1), "L;4": (17, 1), "RGB;16B": (1, 256)}.get(raw_mode, (1, 1))
        stored = np.asarray(image) if image.mode.startswith("I") else pixels
        is_key = stored == np.multiply(key, factor) // divisor
        pixels[is_key.all(axis=-1) if is_key.ndim == 3 else is_key] = _WHITE
    return Image.fromarray(pixels).convert("RGB")


def _from_integers(image: Image.Image, raw_mode: str) -> UInt8[np.ndarray, "H W"]:
    """Scales the modes "I" and "I;16" by the depth of the file."""
    described = re.match(r"I;(\d+)(\w*)", raw_mode)
    num_bits, is_signed = (int(described[1]), "S" in described[2]) if described else (16, False)
    value = np.asarray(image).astype(np.int64)
    if num_bits == 32 and not is_signed:
        value %= 2**32  # Pillow holds them as signed numbers
    largest = 2 ** (num_bits - 1 if is_signed else num_bits) - 1
    return _as_levels((np.clip(value, 0, largest) * _WHITE) // largest, image)


def _from_floats(image: Image.Image) -> UInt8[np.ndarray, "H W"]:
    """Scales the mode "F"."""
    value = np.asarray(image).astype(np.float64)
    is_finite = np.isfinite(value)
    least, largest = (value[is_finite].min(), value[is_finite].max()) if is_finite.any() else (0.0, 0.0)
    if least < 0 or largest > 1:
        value[is_finite] = (value[is_finite] - least) / ((largest - least) or 1.0)
    value = np.nan_to_num(value, nan=0.0, posinf=1.0, neginf=0.0)
    return _as_levels(np.rint(value * _WHITE), image)


def _as_levels(brightness: Num[np.ndarray, "H W"], image: Image.Image) -> UInt8[np.ndarray, "H W"]:
    """From 0 (black) to 255, as 8 bits; of a TIFF in which 0 is white, from white to black."""
    tags: Any = getattr(image, "tag_v2", {})
    is_inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    return (_WHITE - brightness if is_inverted else brightness).astype(np.uint8)


def _upright(rgb: Image.Image, image: Image.Image) -> Image.Image:
    """Turns the pixels as the EXIF of the file says; Pillow has turned those of a TIFF already."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except _DAMAGED:  # the picture is whole
        return rgb
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb
