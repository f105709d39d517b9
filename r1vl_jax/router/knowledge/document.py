"""What a knowledge base holds and what a search gives."""

from dataclasses import dataclass

KINDS = ("text", "image", "table")
METHODS = ("sparse", "dense", "both")


@dataclass(frozen=True)
class Document:
    """A document of a knowledge base.

    Attributes:
        id: the owner's; the second window of a longer text has `ID#2`.
        text: of a text the passage, of a picture its caption, of a row "column: value; ..."; on one line.
        image: the encoded file of a picture; None for texts and rows.
        title: of a document that is to be stored, which puts it before each passage; "" of one that is stored.
    """

    id: str
    text: str
    image: bytes | None = None
    title: str = ""


@dataclass(frozen=True)
class Hit:
    """A document that a search found.

    Attributes:
        number: of the document in its base, from 0.
        score: greater is better; BM25, the cosine of vectors, or a sum of reciprocal ranks.
    """

    number: int
    score: float
