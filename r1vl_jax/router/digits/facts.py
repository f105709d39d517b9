"""The facts of the embedded task: what a number means in a code book, on a shelf and on a sign, and what follows.

A number is written on a picture, and means three things that have nothing to do with each other. Only the question
tells which is meant, and with it where to look. What one look-up gives may be what the next one asks for:

    code book (text)            The number 4821 stands for item C736.
    shelves and prices (table)  shelf: 4821; boxes: 37           item: C736; price: 52; shop: R814
    signs (captions)            Sign 4821 shows a red square.    The sign of R814 shows a blue disc.
"""

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from r1vl_jax.router.knowledge import Document
from r1vl_jax.router.protocol import RETRIEVERS

TEXT, IMAGE, TABLE = (retriever.name for retriever in RETRIEVERS)
_OF_ITEMS, _OF_SHOPS = "ACDEFGHK", "MNPRSTVW"  # letters of their codes, which digits follow: easy to copy
_COLORS = {"red": 0, "orange": 30, "green": 120, "cyan": 180, "blue": 240, "violet": 285}
_SHAPES = {"triangle": 3, "square": 4, "pentagon": 5, "hexagon": 6, "octagon": 8, "disc": 40}
SYMBOLS = tuple(f"{color} {shape}" for color, shape in itertools.product(_COLORS, _SHAPES))
_SIGN_SIZE = 56  # pixels


@dataclass(frozen=True)
class Facts:
    """All that is known about one number.

    Attributes:
        number: four digits, the first not 0.
        item: that it stands for in the code book; price and shop are the item's, `shop_sign` is the shop's.
        boxes: on the shelf of this number.
        sign: what the sign of this number shows.
    """

    number: str
    item: str
    price: str
    shop: str
    shop_sign: str
    boxes: str
    sign: str


@dataclass(frozen=True)
class Kind:
    """A kind of question, with the look-ups that answer it, in order.

    Attributes:
        lookups: for each the retriever, the sub-question, and the fact that answers it; both with fields of `Facts`.
    """

    name: str
    question: str
    lookups: tuple[tuple[str, str, str], ...]


_ITEM = (TEXT, "Which item has the number {number}?", "{item}")
_SHOP = (TABLE, "Which shop sells {item}?", "{shop}")
KINDS = (
    Kind("item", "Which item is this?", (_ITEM,)),
    Kind("boxes", "How many boxes are on this shelf?", ((TABLE, "How many boxes are on shelf {number}?", "{boxes}"),)),
    Kind("sign", "What does this sign show?", ((IMAGE, "What does sign {number} show?", "{sign}"),)),
    Kind("price", "What does this item cost?", (_ITEM, (TABLE, "What is the price of {item}?", "{price}"))),
    Kind("shop", "Which shop sells this item?", (_ITEM, _SHOP)),
    Kind(
        "shop_sign",
        "What does the sign of the shop of this item show?",
        (_ITEM, _SHOP, (IMAGE, "What does the sign of {shop} show?", "{shop_sign}")),
    ),
)


def draw_facts(size: int, rng: np.random.Generator) -> list[Facts]:
    """Facts about so many numbers, at most 7,200; no two share a number, an item or a shop."""
    items, shops = (_codes(letters, rng) for letters in (_OF_ITEMS, _OF_SHOPS))
    numbers = 1000 + rng.permutation(9000)
    two_digits = rng.integers(10, 100, size=(size, 2))
    symbols = rng.integers(len(SYMBOLS), size=(size, 2))
    return [
        Facts(
            number=str(numbers[index]),
            item=items[index],
            shop=shops[index],
            price=str(two_digits[index, 0]),
            boxes=str(two_digits[index, 1]),
            shop_sign=SYMBOLS[symbols[index, 0]],
            sign=SYMBOLS[symbols[index, 1]],
        )
        for index in range(size)
    ]


def _codes(letters: str, rng: np.random.Generator) -> list[str]:
    codes = [f"{letter}{number}" for letter in letters for number in range(100, 1000)]
    return [codes[index] for index in rng.permutation(len(codes))]


def documents(facts: list[Facts]) -> dict[str, Iterator[Document]]:
    """The documents of each retriever's knowledge base: two for each number in the table and among the pictures."""
    return {
        TEXT: (
            Document(f"code-{each.number}", f"The number {each.number} stands for item {each.item}.") for each in facts
        ),
        TABLE: (
            document
            for each in facts
            for document in (
                Document(f"shelf-{each.number}", f"shelf: {each.number}; boxes: {each.boxes}"),
                Document(f"price-{each.item}", f"item: {each.item}; price: {each.price}; shop: {each.shop}"),
            )
        ),
        IMAGE: (
            document
            for each in facts
            for document in (
                Document(f"sign-{each.number}", f"Sign {each.number} shows a {each.sign}.", draw_sign(each.sign)),
                Document(
                    f"shop-{each.shop}", f"The sign of {each.shop} shows a {each.shop_sign}.", draw_sign(each.shop_sign)
                ),
            )
        ),
    }


def draw_sign(symbol: str) -> bytes:
    """A picture of a symbol, as a PNG file."""
    color, shape = symbol.split()
    image = Image.new("RGB", (_SIGN_SIZE, _SIGN_SIZE), "white")
    circle = (_SIGN_SIZE / 2, _SIGN_SIZE / 2, 0.4 * _SIGN_SIZE)
    ImageDraw.Draw(image).regular_polygon(circle, _SHAPES[shape], fill=f"hsl({_COLORS[color]}, 80%, 45%)")
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()
