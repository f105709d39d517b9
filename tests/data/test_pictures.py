"""Every mode, depth, transparency and orientation that Pillow reads, value by value."""

import io
import logging
import struct
import zlib

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from PIL import Image

from r1vl_jax.data import pictures
from r1vl_jax.data.pictures import open_picture, to_rgb

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def grey(*levels: int) -> list[tuple[int, int, int]]:
    return [(level, level, level) for level in levels]


def pixels(image: Image.Image) -> list[tuple[int, ...]]:
    """Row by row."""
    assert image.mode == "RGB"
    return [tuple(map(int, pixel)) for pixel in np.asarray(image).reshape(-1, 3)]


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def row(mode: str, values: list, **info) -> Image.Image:
    """An image of one row."""
    image = Image.new(mode, (len(values), 1))
    image.putdata(values)
    image.info |= info
    return image


def opened(encoded: bytes) -> list[tuple[int, ...]]:
    return pixels(open_picture(encoded, name="it"))


def array_row(values: list, dtype: str) -> Image.Image:
    return Image.fromarray(np.array([values], dtype))


def palette_row(indices: list[int], colours: list[tuple[int, ...]], mode: str = "P") -> Image.Image:
    image = row(mode, indices)
    image.putpalette([value for colour in colours for value in colour], "RGBA" if len(colours[0]) == 4 else "RGB")
    return image


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(bits: int, colour_type: int, row: bytes, width: int, key: bytes = b"", palette: bytes = b"") -> bytes:
    """A PNG of one row, of a depth that Pillow does not write."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, colour_type, 0, 0, 0))
    optional = (chunk(b"PLTE", palette) if palette else b"") + (chunk(b"tRNS", key) if key else b"")
    data = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + header + optional + data + chunk(b"IEND", b"")


def tiff(values: list[int], bits: int, *, signed: bool = False, white_is_zero: bool = False, order: str = "<") -> bytes:
    """A TIFF of one row of grey, of a depth that Pillow does not write."""
    if bits == 12:
        packed = int("".join(f"{value:012b}" for value in values), 2)
        data = packed.to_bytes(len(values) * 12 // 8, "big")
    else:
        data = b"".join(
            value.to_bytes(bits // 8, "little" if order == "<" else "big", signed=signed) for value in values
        )
    tags = {256: len(values), 257: 1, 258: bits, 259: 1, 262: 0 if white_is_zero else 1, 273: 8, 277: 1, 278: 1}
    tags |= {279: len(data), 339: 2 if signed else 1}
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    ifd = struct.pack(f"{order}H", len(tags)) + entries + b"\0\0\0\0"
    magic = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}H", 42)
    data += b"\0" * (len(data) % 2)
    return magic + struct.pack(f"{order}I", 8 + len(data)) + data + ifd


# mode -> an image in memory, and what it looks like. Half transparent red on white is (255, 127, 127).
MODES = {
    "1": (row("1", [0, 255]), [BLACK, WHITE]),
    "L": (row("L", [0, 7, 255]), grey(0, 7, 255)),
    "LA": (row("LA", [(0, 0), (0, 255), (0, 128), (100, 51)]), grey(255, 0, 127, 224)),
    "La": (row("LA", [(0, 0), (0, 255), (0, 128), (100, 51)]).convert("La"), grey(255, 0, 127, 224)),
    "P": (palette_row([2, 0, 1], [RED, GREEN, BLUE]), [BLUE, RED, GREEN]),
    "PA": (palette_row([(0, 255), (1, 0), (0, 128)], [RED, GREEN], "PA"), [RED, WHITE, (255, 127, 127)]),
    "RGB": (row("RGB", [RED, (1, 2, 3)]), [RED, (1, 2, 3)]),
    "RGBX": (row("RGBX", [(1, 2, 3, 0), (4, 5, 6, 255)]), [(1, 2, 3), (4, 5, 6)]),
    "RGBA": (row("RGBA", [(9, 9, 9, 0), (255, 0, 0, 128), (1, 2, 3, 255)]), [WHITE, (255, 127, 127), (1, 2, 3)]),
    "RGBa": (
        row("RGBA", [(9, 9, 9, 0), (255, 0, 0, 128), (1, 2, 3, 255)]).convert("RGBa"),
        [WHITE, (255, 127, 127), (1, 2, 3)],
    ),
    "CMYK": (row("CMYK", [(0, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 255)]), [WHITE, RED, BLACK]),
    "YCbCr": (row("YCbCr", [(0, 128, 128), (99, 128, 128), (255, 128, 128)]), grey(0, 99, 255)),
    "HSV": (row("HSV", [(0, 255, 255), (85, 255, 255), (0, 0, 77)]), [RED, GREEN, *grey(77)]),
    "LAB": (row("LAB", [(0, 128, 128), (137, 128, 128), (138, 209, 198)]), [BLACK, *grey(128), RED]),
    "I": (row("I", [0, 256, 257, 32768, 65535, 70000, -5]), grey(0, 0, 1, 127, 255, 255, 0)),
    "I;16": (array_row([0, 256, 257, 32768, 65535], "<u2"), grey(0, 0, 1, 127, 255)),
    "I;16B": (array_row([0, 256, 257, 32768, 65535], ">u2"), grey(0, 0, 1, 127, 255)),
    "I;16L": (Image.frombytes("I;16L", (2, 1), b"\x01\x01\xff\xff"), grey(1, 255)),
    "I;16N": (Image.frombytes("I;16N", (2, 1), np.array([257, 65535], "=u2").tobytes()), grey(1, 255)),
    "F": (row("F", [0.0, 0.25, 1.0]), grey(0, 64, 255)),
}
ROUNDING = {"LAB": 12, "CIELAB": 12}  # LittleCMS in 8 bits; red is (54.3, 80.8, 69.9) in CIELAB


def test_the_table_has_every_mode_of_pillow():
    assert MODES.keys() == set(Image.MODES)


@pytest.mark.parametrize("mode", MODES)
def test_an_image_of_every_mode_looks_as_it_does(mode: str):
    image, expected = MODES[mode]
    assert image.mode == mode
    before = image.tobytes()
    np.testing.assert_allclose(pixels(to_rgb(image)), expected, atol=ROUNDING.get(mode, 0))
    assert image.tobytes() == before


TRANSPARENT = row("RGBA", [(9, 9, 9, 0), (255, 0, 0, 128), (1, 2, 3, 255)])
ON_WHITE = [WHITE, (255, 127, 127), (1, 2, 3)]
INDEXED = palette_row([0, 1, 2], [RED, GREEN, BLUE])

# What stands in the file -> the file, and what it looks like.
FILES = {
    "png RGBA": (saved(TRANSPARENT, "PNG"), ON_WHITE),
    "webp RGBA": (saved(TRANSPARENT, "WEBP", lossless=True, exact=True), ON_WHITE),
    "tiff RGBA": (saved(TRANSPARENT, "TIFF"), ON_WHITE),
    "tga RGBA": (saved(TRANSPARENT, "TGA"), ON_WHITE),
    "png LA": (saved(MODES["LA"][0], "PNG"), grey(255, 0, 127, 224)),
    "png LA of 16 bits": (png(16, 4, b"\x40\x00\xff\xff\x40\x00\x00\x00", 2), grey(0x40, 255)),
    "png palette, one colour transparent": (saved(INDEXED, "PNG", transparency=1), [RED, WHITE, BLUE]),
    "png palette, half transparent": (
        saved(INDEXED, "PNG", transparency=b"\x80\xff\x00"),
        [(255, 127, 127), GREEN, WHITE],
    ),
    "gif palette, one colour transparent": (saved(INDEXED, "GIF", transparency=2), [RED, GREEN, WHITE]),
    "gif grey, one level transparent": (saved(row("L", [7, 8]), "GIF", transparency=7), [WHITE, *grey(8)]),
    "ico RGBA": (saved(TRANSPARENT.crop((0, 0, 1, 1)), "ICO"), [WHITE]),
    "png palette, opaque": (saved(INDEXED, "PNG"), [RED, GREEN, BLUE]),
    "png palette of 1 bit": (png(1, 3, b"\x40", 2, palette=bytes([1, 2, 3, 4, 5, 6])), [(1, 2, 3), (4, 5, 6)]),
    "png key of grey": (saved(row("L", [7, 8]), "PNG", transparency=7), [WHITE, *grey(8)]),
    "png key of 1 bit": (png(1, 0, b"\x40", 2, b"\0\1"), [BLACK, WHITE]),
    "png key of 1 bit, black": (png(1, 0, b"\x40", 2, b"\0\0"), [WHITE, WHITE]),
    "png key of 2 bits": (png(2, 0, b"\x6c", 4, b"\0\2"), [*grey(85), WHITE, WHITE, BLACK]),
    "png key of 4 bits": (png(4, 0, b"\x1f", 2, b"\0\1"), [WHITE, WHITE]),
    "png key of 16 bits": (png(16, 0, b"\x01\x01\x01\x02", 2, b"\1\2"), [*grey(1), WHITE]),
    "png key of colour": (saved(row("RGB", [RED, (1, 2, 3)]), "PNG", transparency=RED), [WHITE, (1, 2, 3)]),
    "png key of colour of 16 bits": (
        png(16, 2, b"\x10\x00\x20\x00\x30\x00" + b"\x10\x00\x20\x00\x31\x00", 2, b"\x10\x00\x20\x00\x30\x00"),
        [WHITE, (0x10, 0x20, 0x31)],
    ),
    "png of 2 bits": (png(2, 0, b"\x1b", 4), grey(0, 85, 170, 255)),
    "png of 4 bits": (png(4, 0, b"\x1f", 2), grey(17, 255)),
    "png of 16 bits": (png(16, 0, struct.pack(">4H", 0, 256, 257, 65535), 4), grey(0, 0, 1, 255)),
    "pgm of 16 bits": (b"P5 3 1 65535 " + struct.pack(">3H", 0, 32768, 65535), grey(0, 127, 255)),
    "pgm of 10 bits": (b"P5 3 1 1023 " + struct.pack(">3H", 0, 512, 1023), grey(0, 127, 255)),
    "pgm in words": (b"P2 3 1 1023 0 512 1023", grey(0, 127, 255)),
    "jpeg 2000 of 16 bits": (saved(array_row([0, 257, 65535], "<u2"), "JPEG2000"), grey(0, 1, 255)),
    "tiff of 12 bits": (tiff([0, 2048, 4095, 16], 12), grey(0, 127, 255, 0)),
    "tiff of 16 bits": (tiff([0, 256, 257, 65535], 16), grey(0, 0, 1, 255)),
    "tiff of 16 bits, big-endian": (tiff([0, 256, 257, 65535], 16, order=">"), grey(0, 0, 1, 255)),
    "tiff of 16 bits, compressed": (
        saved(Image.fromarray(np.array([[0, 257, 65535]], np.uint16)), "TIFF", compression="tiff_lzw"),
        grey(0, 1, 255),
    ),
    "tiff of 16 bits, 0 is white": (tiff([0, 256, 65535], 16, white_is_zero=True), grey(255, 255, 0)),
    "tiff of 16 bits, signed": (tiff([-5, 0, 16384, 32767], 16, signed=True), grey(0, 0, 127, 255)),
    "tiff of 32 bits": (tiff([0, 2**31, 2**32 - 1], 32), grey(0, 127, 255)),
    "tiff of 32 bits, signed": (tiff([-5, 2**30, 2**31 - 1], 32, signed=True), grey(0, 127, 255)),
    "tiff of mode I": (saved(row("I", [0, 2**30, 2**31 - 1, -7]), "TIFF"), grey(0, 127, 255, 0)),
    "tiff of mode F": (saved(row("F", [0.0, 0.25, 1.0]), "TIFF"), grey(0, 64, 255)),
    "tiff of CIELAB": (saved(MODES["LAB"][0], "TIFF"), [BLACK, *grey(128), RED]),
    "tiff of CMYK": (saved(MODES["CMYK"][0], "TIFF"), [WHITE, RED, BLACK]),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_looks_as_its_owner_sees_it(name: str):
    encoded, expected = FILES[name]
    np.testing.assert_allclose(opened(encoded), expected, atol=ROUNDING.get(name.split()[-1], 0))


def test_16_bits_are_divided_by_257():
    value = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    for image in (Image.fromarray(value), open_picture(saved(Image.fromarray(value), "PNG"), name="it")):
        np.testing.assert_array_equal(np.asarray(to_rgb(image)), np.repeat((value // 257)[..., None], 3, axis=-1))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.5, 0.5], [128, 128]),
        ([0.0, 0.0], [0, 0]),
        ([10.0, 20.0, 30.0], [0, 128, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([7.0, 7.0], [0, 0]),
        ([-3.4e38, 0.0, 3.4e38], [0, 128, 255]),
        ([0.0, np.nan, 1.0], [0, 0, 255]),
        ([0.0, np.inf, -np.inf, 0.2], [0, 255, 0, 51]),
        ([10.0, np.inf, -np.inf, 20.0, np.nan], [0, 255, 0, 255, 0]),
        ([7.0, np.inf, np.nan], [0, 255, 0]),
        ([np.nan, np.nan], [0, 0]),
        ([np.inf, -np.inf], [255, 0]),
    ],
)
@pytest.mark.filterwarnings("error")
def test_floating_point_numbers_are_scaled(values: list[float], expected: list[int]):
    assert pixels(to_rgb(array_row(values, "f4"))) == grey(*expected)


def test_8_bits_survive_floating_point():
    value = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = to_rgb(Image.fromarray((value / 255).astype(np.float32)))
    np.testing.assert_array_equal(np.asarray(image)[..., 0], value)


@hypothesis.given(strategies.binary(min_size=4, max_size=4))
def test_transparency_is_blended_with_white_to_the_nearest_level(pixel: bytes):
    alpha = pixel[3]
    expected = tuple((level * alpha + 255 * (255 - alpha) + 127) // 255 for level in pixel[:3])
    assert pixels(to_rgb(row("RGBA", [tuple(pixel)]))) == [expected]


# The stored picture is 3 wide and 2 high, letters in place of colours; what is seen, for each orientation.
STORED = "abc/def"
SEEN = {
    1: "abc/def",
    2: "cba/fed",
    3: "fed/cba",
    4: "def/abc",
    5: "ad/be/cf",
    6: "da/eb/fc",
    7: "fc/eb/da",
    8: "cf/be/ad",
}


def drawn(letters: str) -> Image.Image:
    """Squares of 16 x 16 pixels, of one colour for each letter."""
    level = np.array([[40 * (ord(letter) - ord("a")) for letter in line] for line in letters.split("/")], np.uint8)
    return Image.fromarray(level.repeat(16, axis=0).repeat(16, axis=1)).convert("RGB")


def letters(image: Image.Image) -> str:
    level = np.asarray(image.convert("L"))[8::16, 8::16]
    return "/".join("".join(chr(ord("a") + round(each / 40)) for each in line) for line in level)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", SEEN)
def test_a_photograph_is_upright(orientation: int, kind: str):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_picture(saved(drawn(STORED), kind, exif=exif), name="it")
    assert letters(image) == SEEN[orientation]
    assert letters(to_rgb(image)) == SEEN[orientation]  # and is not turned again


@pytest.mark.parametrize("mode", MODES)
def test_an_image_of_every_mode_is_turned(mode: str):
    exif = Image.Exif()
    exif[0x0112] = 6
    image, expected = MODES[mode]
    turned = image.copy()
    turned.info = image.info | {"exif": exif.tobytes()}
    upright = to_rgb(turned)
    assert upright.size == (1, image.width)  # clockwise: from left to right becomes from top to bottom
    np.testing.assert_allclose(pixels(upright), expected, atol=ROUNDING.get(mode, 0))


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0junk", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0" + bytes(40)])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_turns_nothing(exif: bytes):
    assert letters(open_picture(saved(drawn(STORED), "JPEG", exif=exif), name="it")) == STORED


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_unknown_orientation_turns_nothing(orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert letters(open_picture(saved(drawn(STORED), "JPEG", exif=exif), name="it")) == STORED


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_taken_and_said_once(kind: str, monkeypatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(pictures, "_animations", iter(range(9)))
    frames = [drawn(STORED), drawn("fff/aaa"), drawn("bbb/bbb")]
    encoded = saved(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    with caplog.at_level(logging.WARNING):
        assert letters(open_picture(encoded, name="image 1 of record 'x'")) == STORED
        assert letters(open_picture(encoded, name="image 1 of record 'y'")) == STORED
    assert caplog.messages == [
        "image 1 of record 'x' has several frames or pages: of every such picture the first is taken (said once)"
    ]


def test_a_still_picture_says_nothing(monkeypatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(pictures, "_animations", iter(range(9)))
    opened(saved(drawn(STORED), "GIF"))
    assert caplog.messages == []


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "GIF", "TIFF", "JPEG2000"])
def test_a_file_without_its_second_half_is_unreadable(kind: str):
    encoded = saved(Image.effect_noise((64, 64), 99), kind)
    with pytest.raises(ValueError, match=r"\w"):
        opened(encoded[: len(encoded) // 2])


def test_an_error_that_a_decoder_has_for_itself_is_an_unreadable_picture():
    with pytest.raises(ValueError, match="Failed to decode image") as error:
        opened(saved(drawn(STORED), "AVIF").replace(b"iloc", b"none"))
    assert isinstance(error.value.__cause__, RuntimeError)


DAMAGED = [encoded for encoded, _ in FILES.values()] + [
    saved(drawn(STORED), kind, **options)
    for kind, options in {
        "JPEG": {},
        "WEBP": {},
        "GIF": {"save_all": True, "append_images": [drawn("fff/aaa")]},
        "BMP": {},
        "ICO": {},
        "AVIF": {},
        "JPEG2000": {},
    }.items()
]


@hypothesis.given(
    strategies.sampled_from(DAMAGED),
    strategies.lists(strategies.tuples(strategies.integers(0, 400), strategies.integers(0, 255)), max_size=4),
    strategies.integers(0, 400),
)
@hypothesis.settings(max_examples=300, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_is_a_picture_or_unreadable_and_nothing_else(encoded: bytes, changes: list, cut: int):
    damaged = bytearray(encoded)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    try:
        assert open_picture(bytes(damaged[: len(damaged) - cut % len(damaged)]), name="it").mode == "RGB"
    except ValueError as error:
        assert str(error)  # noqa: PT017 - either is right
