"""Pictures of a benchmark: base64, lists, rows that point to others, bytes of the hub; what is broken is named."""

import base64

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.benchmark_files import write_tsv
from helpers.peak_memory import peak_kib

from r1vl_jax.evaluation.benchmarks.pictures import Pictures

ONE, TWO = (bytes([number]) * 100 for number in (1, 2))
CODED = [base64.b64encode(each).decode() for each in (ONE, TWO)]


def write(tmp_path, **cells):
    return write_tsv(tmp_path / "b.tsv", [{"index": index, "image": cell} for index, cell in cells.items()])


def test_base64_lists_and_pointers(tmp_path):
    wrapped = f"{CODED[1][:76]}\n{CODED[1][76:]}"
    path = write(tmp_path, a="b", b=CODED[0], c=str(CODED), d=" b ", e=wrapped)
    with Pictures(path) as pictures:
        assert [pictures.files_of(row) for row in range(5)] == [[ONE], [ONE], [ONE, TWO], [ONE], [TWO]]


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
    with Pictures(write(tmp_path, a=cell, b=CODED[0], c="a")) as pictures:
        assert pictures.files_of(1) == [ONE]
        for row in (0, 2):  # the latter points to the former
            with pytest.raises(ValueError, match=reason if row == 0 or len(cell) > 64 else "index of no row"):
                pictures.files_of(row)


def test_of_rows_that_are_not_asked_those_are_held_that_are_pointed_to(tmp_path):
    path = write(tmp_path, a=CODED[0], b="d", c=CODED[1], d=CODED[1], e=CODED[0])
    held = {1: 100, 2: 200, None: 400}  # bytes, by the rows that are asked
    for num_rows, size in held.items():
        with Pictures(path, num_rows=num_rows) as pictures:
            assert pictures.files_of(0) == [ONE]
            if num_rows != 1:
                assert pictures.files_of(1) == [TWO]
            assert pictures._file.seek(0, 2) == size


def test_a_damaged_end_is_not_read_where_the_first_rows_are_asked(tmp_path):
    path = write(tmp_path, a=CODED[0], b=CODED[1])
    path.write_text(path.read_text() + "c\n")
    with Pictures(path, num_rows=2) as pictures:
        assert pictures.files_of(1) == [TWO]


def test_data_urls(tmp_path):
    with Pictures(write(tmp_path, a=f"data:image/png;base64,{CODED[0]}")) as pictures:
        assert pictures.files_of(0) == [ONE]


def test_bytes_of_the_hub(tmp_path):
    rows = [{"index": 3, "image": {"bytes": ONE, "path": "x.png"}}, {"index": 4, "image": {"bytes": None, "path": ""}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    with Pictures(tmp_path / "b.parquet") as pictures:
        assert pictures.files_of(0) == [ONE]
        with pytest.raises(ValueError, match="is no base64"):
            pictures.files_of(1)


def test_a_set_of_the_hub_without_index_has_its_pictures_beside_their_paths(tmp_path):
    rows = [{"image": f"images/{name}.jpg", "decoded_image": {"bytes": name * 100}} for name in (b"x", b"y")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    with Pictures(tmp_path / "b.parquet") as pictures:
        assert pictures.files_of(1) == [b"y" * 100]


def test_a_file_without_pictures(tmp_path):
    with pytest.raises(
        ValueError, match="lacks image, the pictures that are asked about; its columns are index, answer"
    ):
        Pictures(write_tsv(tmp_path / "b.tsv", [{"index": 1, "answer": 2}]))


_READ = """
with Pictures(Path(sys.argv[1])) as pictures:
    print({len(content) for row in range(60) for content in pictures.files_of(row)})
"""


def test_pictures_are_not_held_in_memory(tmp_path):
    picture = base64.b64encode(bytes(3_000_000)).decode()
    path = write_tsv(tmp_path / "b.tsv", [{"index": row, "image": picture} for row in range(60)])
    sizes, kib = peak_kib("from r1vl_jax.evaluation.benchmarks.pictures import Pictures", _READ, path)
    assert sizes == "{3000000}"
    assert kib < 80 * 1024  # of 60 pictures, 180 MB
