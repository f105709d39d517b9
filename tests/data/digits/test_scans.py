"""Scans are split without overlap, and pictures have one cell per symbol."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from r1vl_jax.data.digits.scans import load_scans, render


def test_splits_partition_the_scans_of_every_digit():
    target = load_digits().target
    sizes = {split: {digit: len(scans) for digit, scans in load_scans(split).items()} for split in _SPLITS}
    for digit in range(10):
        assert sum(sizes[split][str(digit)] for split in _SPLITS) == (target == digit).sum()
        assert 39 <= sizes["test"][str(digit)] <= 45
    totals = {split: sum(sizes[split].values()) for split in _SPLITS}
    assert 1130 < totals["train"] < 1170
    assert 200 < totals["validation"] < 230


def test_splits_share_no_scan():
    scans = [scan.tobytes() for split in _SPLITS for digit in load_scans(split).values() for scan in digit]
    assert len(scans) == len(set(scans)) == 1797


@pytest.mark.parametrize(("rows", "size"), [(["3"], (28, 28)), (["3+5*2"], (140, 28)), (["385", "120"], (84, 56))])
def test_pictures_have_a_cell_per_symbol(rows, size):
    picture = Image.open(io.BytesIO(render(rows, load_scans("train"), np.random.default_rng(0))))
    assert picture.size == size


def test_every_cell_shows_its_symbol():
    """Each cell has ink; `-` has ink in its middle rows only."""
    grey = np.asarray(Image.open(io.BytesIO(render(["7+-*"], load_scans("test"), np.random.default_rng(0)))))
    cells = grey.reshape(28, 4, 28).swapaxes(0, 1) > 150  # strokes are lighter than the background
    assert cells.any(axis=(1, 2)).all()
    minus = cells[2].any(axis=1)
    assert 1 <= minus.sum() <= 4
    assert 9 <= np.flatnonzero(minus).mean() <= 18


def test_renderings_of_a_digit_differ():
    rng = np.random.default_rng(0)
    assert len({render(["4"], load_scans("train"), rng) for _ in range(20)}) == 20


_SPLITS = ("train", "validation", "test")
