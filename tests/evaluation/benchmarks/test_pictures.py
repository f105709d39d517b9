"""Pictures of a benchmark: base64, lists, rows that point to others, bytes of the hub; what is broken is named."""

import base64

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.benchmark_files import write_tsv

from r1vl_jax.evaluation.benchmarks import read_pictures

ONE, TWO = (bytes([number]) * 100 for number in (1, 2))
CODED = [base64.b64encode(each).decode() for each in (ONE, TWO)]


def read(tmp_path, **cells):
    rows = [{"index": index, "image": cell} for index, cell in cells.items()]
    return read_pictures(write_tsv(tmp_path / "b.tsv", rows))


def test_base64_lists_and_pointers(tmp_path):
    wrapped = f"{CODED[1][:76]}\n{CODED[1][76:]}"
    pictures = read(tmp_path, a="b", b=CODED[0], c=str(CODED), d="b", e=wrapped)
    assert pictures.encoded == {"a": [ONE], "b": [ONE], "c": [ONE, TWO], "d": [ONE], "e": [TWO]}
    assert pictures.broken == {}


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("nowhere", "its image 'nowhere' is the index of no row with a picture"),
        ("a", "its image 'a' is the index of no row with a picture"),  # itself
        ("", "its image '' is the index of no row"),
        ("*" * 100, "its image is broken base64"),
        (CODED[0][:-1], "its image is broken base64"),
        ("A" * 17_000_000, "its image is no base64 of at most 16,777,216 characters"),
    ],
    ids=range(6),
)
def test_what_is_broken_is_named_and_the_rest_is_read(tmp_path, cell, reason):
    pictures = read(tmp_path, a=cell, b=CODED[0])
    assert pictures.encoded == {"b": [ONE]}
    assert list(pictures.broken) == ["a"]
    assert reason in pictures.broken["a"]


def test_bytes_of_the_hub(tmp_path):
    rows = [{"index": 3, "image": {"bytes": ONE, "path": "x.png"}}, {"index": 4, "image": {"bytes": None, "path": ""}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    pictures = read_pictures(tmp_path / "b.parquet")
    assert pictures.encoded == {"3": [ONE]}
    assert list(pictures.broken) == ["4"]


def test_a_file_without_pictures(tmp_path):
    with pytest.raises(ValueError, match="lacks image; its columns are index, answer"):
        read_pictures(write_tsv(tmp_path / "b.tsv", [{"index": 1, "answer": 2}]))
