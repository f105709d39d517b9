"""Renders pictures of the embedded task: rows of scikit-learn's scanned handwritten digits and printed operators."""

import functools
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

CELL_SIZE = 28  # pixels; one cell is one merged patch, that is one image token
_SCALE = 3  # a scan of 8x8 pixels is enlarged to 24x24 ...
_JITTER = 2  # ... and shifted by up to 2 pixels in its cell
_SPLIT_SEED = 1797  # all runs split the scans alike, so that no run trains on the test scans of another
_SHARES = {"train": 0.64, "validation": 0.12, "test": 0.24}

Ink = Float[np.ndarray, "rows columns"]  # 0 background, 1 full stroke


@functools.cache
def load_scans(split: str) -> dict[str, list[Ink]]:
    """The scans of a split ("train", "validation", "test") by digit; splits share no scan."""
    from sklearn.datasets import load_digits  # takes seconds to import, and only writing the data needs it

    digits: Any = load_digits()
    rng = np.random.default_rng(_SPLIT_SEED)
    edges = np.cumsum([0.0, *_SHARES.values()])
    position = list(_SHARES).index(split)
    scans = {}
    for digit in range(10):
        order = rng.permutation(np.flatnonzero(digits.target == digit))
        start, stop = (int(len(order) * edge) for edge in edges[position : position + 2])
        scans[str(digit)] = [_enlarge(digits.images[index] / 16) for index in order[start:stop]]
    return scans


def render(rows: Sequence[str], scans: dict[str, list[Ink]], rng: np.random.Generator) -> bytes:
    """A picture of rows of digits and operators, as a PNG file.

    Args:
        rows: strings of equal length over `0-9 + - *`.
        scans: of each digit, from `load_scans`.
    """
    ink = np.concatenate([np.concatenate([_cell(symbol, scans, rng) for symbol in row], axis=1) for row in rows])
    # Light strokes on a mid-grey background, which is near zero after normalisation, so that the strokes stand out.
    background, contrast = rng.uniform(0.38, 0.52), rng.uniform(0.7, 1.0)
    grey = background + (1 - background) * contrast * ink
    file = io.BytesIO()
    Image.fromarray((grey * 255).astype(np.uint8)).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def _cell(symbol: str, scans: dict[str, list[Ink]], rng: np.random.Generator) -> Ink:
    cell = np.zeros((CELL_SIZE, CELL_SIZE), np.float32)
    glyph = scans[symbol][rng.integers(len(scans[symbol]))] if symbol in scans else _operator(symbol)
    top, left = (CELL_SIZE - len(glyph)) // 2 + rng.integers(-_JITTER, _JITTER + 1, size=2)
    cell[top : top + len(glyph), left : left + len(glyph)] = glyph
    return cell


def _enlarge(scan: Ink) -> Ink:
    size = (scan.shape[1] * _SCALE, scan.shape[0] * _SCALE)
    return np.asarray(Image.fromarray(scan.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))


@functools.cache
def _operator(symbol: str) -> Ink:
    """A printed `+`, `-` or multiplication sign (`*`), 14 pixels wide, with strokes of two pixels."""
    size = CELL_SIZE // 2
    row, column = np.indices((size, size))
    is_horizontal, is_vertical = abs(2 * row + 1 - size) <= 2, abs(2 * column + 1 - size) <= 2
    is_diagonal = (abs(row - column) <= 1) | (abs(row + column + 1 - size) <= 1)
    return {"+": is_horizontal | is_vertical, "-": is_horizontal, "*": is_diagonal}[symbol].astype(np.float32)
