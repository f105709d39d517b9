"""Rows of files become documents: columns, pictures, cells, whole tables, and what is wrong with a row."""

import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from r1vl_jax.router.knowledge import files
from r1vl_jax.router.knowledge.files import count_rows, describe, find_files, iterate_rows
from r1vl_jax.router.knowledge.rows import Columns, documents_of, write_row


def _one(row: dict, kind: str, columns: Columns | None = None):
    (document,) = documents_of(row, kind, columns or Columns(), "file/1")
    return document


@pytest.fixture
def picture(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, "PNG")
    (tmp_path / "red.png").write_bytes(buffer.getvalue())
    return buffer.getvalue()


@pytest.mark.parametrize("names", [("id", "title", "text"), ("_id", "title", "text"), ("docid", "title", "contents")])
def test_columns_of_known_names_are_found(names):
    document = _one(dict(zip(names, ("7", "Rome", "A city."), strict=True)), "text")
    assert (document.id, document.title, document.text) == ("7", "Rome", "A city.")


def test_given_names_come_first_and_a_row_without_id_has_its_place():
    document = _one({"text": "no", "abstract": "yes", "page": 3}, "text", Columns(text="abstract", title="page"))
    assert (document.id, document.title, document.text) == ("file/1", "3", "yes")


@pytest.mark.parametrize("form", ["bytes", "path", "cell of datasets"])
def test_a_picture_is_read_in_every_form(picture, tmp_path, form):
    cell = {"bytes": picture, "path": "red.png", "cell of datasets": {"bytes": picture, "path": None}}[form]
    document = _one({"caption": "all red", "image": cell}, "image", Columns(images=tmp_path))
    assert (document.text, document.image) == ("all red", picture)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (None, "expected one picture, got 0"),
        (["a.png", "b.png"], "expected one picture, got 2"),
        ("../secret.png", "leads out of"),
        ("absent.png", "cannot be read"),
        (b"no picture", "cannot identify image file"),
    ],
)
def test_an_unusable_picture_is_named(tmp_path, cell, reason):
    with pytest.raises(ValueError, match=reason):
        _one({"caption": "a", "image": cell}, "image", Columns(images=tmp_path))


@pytest.mark.parametrize(
    ("cells", "text"),
    [
        ({"city": "Rome", "people": 2_750_000, "area": 1285.3}, "city: Rome; people: 2750000; area: 1285.3"),
        ({"a": None, "b": "", "c": float("nan"), "d": 0, "e": False}, "d: 0; e: False"),
        ({"a": "two\nlines", "": "unnamed"}, "a: two lines; unnamed"),
        ({"tags": ["x", 1, None], "empty": []}, "tags: x, 1"),
        ({"deep": [["x", 1], ["ü"]], "map": {"k": None}}, 'deep: [["x", 1], ["ü"]]; map: {"k": null}'),
    ],
)
def test_a_row_is_written_on_one_line(cells, text):
    assert write_row(cells.items()) == text


def test_a_whole_table_is_a_document_for_each_row():
    table = {"table_id": "t1", "page_title": "Cities", "header": ["city", "people"], "rows": [["Rome", 3], ["Oslo", 1]]}
    rome, oslo = documents_of(table, "table", Columns(), "file/1")
    assert (rome.id, rome.title, rome.text) == ("t1/1", "Cities", "city: Rome; people: 3")
    assert (oslo.id, oslo.text) == ("t1/2", "city: Oslo; people: 1")


def test_a_row_that_does_not_fit_its_header_is_named():
    with pytest.raises(ValueError, match="row 2 of the table: expected 1 cells, as its header has"):
        list(documents_of({"header": ["a"], "rows": [["x"], ["y", "z"]]}, "table", Columns(), "file/1"))


def test_a_text_that_is_none_is_named():
    with pytest.raises(ValueError, match=r"expected text in column text/.*, got \['x'\] \(list\)"):
        _one({"text": ["x"]}, "text")


@pytest.mark.parametrize(
    ("kind", "columns", "reason"),
    [
        ("text", Columns(), r"no column text, .*; it has a, b; name yours with --text_column"),
        ("image", Columns(text="a"), "no column image, .*--image_column"),
        ("table", Columns(title="c"), r"no column c \(--title_column\); it has a, b"),
    ],
)
def test_a_file_without_the_columns_is_refused(tmp_path, kind, columns, reason):
    with pytest.raises(ValueError, match=reason):
        columns.check({"a": 1, "b": 2}, kind, tmp_path / "rows.csv")


ROWS = [{"a": "1", "b": 'x, "y"\nz'}, {"a": "2", "b": ""}]


@pytest.mark.parametrize("name", ["r.jsonl", "r.json", "r.jsonl.gz", "r.parquet", "r.csv", "r.tsv"])
def test_every_form_of_file_gives_the_same_rows(tmp_path, name):
    path = tmp_path / name
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    separator = "\t" if name == "r.tsv" else ","
    table = separator.join("ab") + "\n" + f'1{separator}"x, ""y""\nz"\n2{separator}\n'
    if name == "r.parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        text = {"r.json": json.dumps(ROWS), "r.csv": table, "r.tsv": table}.get(name, lines)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    assert list(iterate_rows(path)) == ROWS
    assert count_rows(path) in (2, 4)  # of CSV, lines
    assert find_files(tmp_path) == [path]


def test_columns_may_have_another_separator(tmp_path):
    (tmp_path / "table.csv").write_text("city#people\nRome#3\n")
    assert list(iterate_rows(tmp_path / "table.csv", "#")) == [{"city": "Rome", "people": "3"}]


@pytest.mark.parametrize(
    ("text", "reason"), [("a,a\n1,2\n", "columns of one name: a"), ("a,b\n1\n", "Expected 2 columns"), ("", "Empty")]
)
def test_a_damaged_table_is_named(tmp_path, text, reason):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"table\.csv: .*{reason}"):
        list(iterate_rows(tmp_path / "table.csv"))


def test_a_long_cell_is_read(tmp_path):
    (tmp_path / "table.csv").write_text(f"a,b\n{'x' * 2_000_000},1\n")
    assert len(next(iterate_rows(tmp_path / "table.csv"))["a"]) == 2_000_000


def test_line_breaks_in_cells_do_not_end_a_row_where_a_block_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_BLOCK_BYTES", 64)
    rows = [{"a": str(number), "b": "x\ny\nz"} for number in range(50)]
    (tmp_path / "table.csv").write_text("a,b\n" + "".join(f'{row["a"]},"{row["b"]}"\n' for row in rows))
    assert list(iterate_rows(tmp_path / "table.csv")) == rows


def test_files_of_other_kinds_are_refused(tmp_path):
    (tmp_path / "index.pkl").write_bytes(b"")
    with pytest.raises(ValueError, match="expected a file that ends in .jsonl"):
        find_files(tmp_path / "index.pkl")
    with pytest.raises(FileNotFoundError, match="no data here"):
        find_files(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        find_files(tmp_path / "absent")


def test_a_file_that_changes_is_another_source(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("{}\n")
    before = describe([path])
    assert describe([path]) == before
    path.write_text("{}\n{}\n")
    assert describe([path]) != before
