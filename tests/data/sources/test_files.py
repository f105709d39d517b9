"""Files in every format and name, row by row."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r1vl_jax.data.sources import files
from r1vl_jax.data.sources.files import count_rows, find_files, local_source, read_rows

ROWS = [{"problem": "Größe? " * n, "answer": n, "nested": [{"a": n}]} for n in range(5)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps(ROWS)),
        ("a.json", json.dumps(ROWS, indent=2, ensure_ascii=False) + "\n"),
        ("a.json", LINES),
        ("a.jsonl", "\ufeff" + LINES + "\n\n"),
        ("a.jsonl", json.dumps(ROWS)),
        ("a.json", json.dumps({"version": 1, "data": ROWS})),
        ("a.json.gz", json.dumps(ROWS)),
        ("a.jsonl.gz", LINES),
    ],
    ids=["list", "indented", "lines named json", "lines", "list named jsonl", "held list", "list.gz", "lines.gz"],
)
@pytest.mark.parametrize("chunk", [7, 1 << 20])
def test_json_in_every_form(tmp_path, monkeypatch, name, content, chunk):
    monkeypatch.setattr(files, "_CHUNK", chunk)
    data = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert list(read_rows(tmp_path / name)) == ROWS
    assert count_rows(tmp_path / name) == 5


def test_parquet_and_streams_of_arrow(tmp_path):
    table = pa.Table.from_pylist([row | {"image": {"bytes": b"x", "path": None}} for row in ROWS])
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    with pa.ipc.new_stream(tmp_path / "a.arrow", table.schema) as stream:
        stream.write_table(table)
    for name in ("a.parquet", "a.arrow"):
        assert list(read_rows(tmp_path / name)) == table.to_pylist()
        assert count_rows(tmp_path / name) == 5


def test_what_datasets_saves_is_read_without_it(tmp_path):
    datasets = pytest.importorskip("datasets")
    train, test = datasets.Dataset.from_list(ROWS), datasets.Dataset.from_list(ROWS[:2])
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "data")
    found = find_files(tmp_path / "data")
    assert list(found) == ["train", "test"]
    assert [row for path in found["train"] for row in read_rows(path)] == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", LINES + '{"problem": ', "a.json: expected JSON, .* after 5 whole rows: Expecting value"),
        ("a.json", json.dumps(ROWS)[:-1], "after 5 whole rows"),
        ("a.json", "[1]", "a.json: row 0: expected an object, got 1"),
        ("a.jsonl", LINES + "[" * 5000, "a.jsonl: row 5, line 6: nested too deep to be read; remove the row"),
        ("a.json", b"\xff\xfe", "a.json: 'utf-8' codec can't decode"),
        ("a.json.gz", "[]", "a.json.gz: Not a gzipped file"),
        ("a.parquet", "junk" * 4, "a.parquet: Parquet magic bytes not found"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        list(read_rows(tmp_path / name))


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["a.json"], {"train": 1}),
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"], {"train": 2}),
        (["train.json", "val.jsonl", "testmini.parquet"], {"train": 1, "validation": 1, "test": 1}),
        (["warmup/a.json", "train/a.json", "dev/a.json"], {"warmup": 1, "train": 1, "validation": 1}),
        (["latest.json", "contest.json"], {"train": 2}),
        (["train.json", "dataset_infos.json", ".cache/test.json", "images/a.png"], {"train": 1}),
        (["geo_train/test.json"], {"test": 1}),
    ],
)
def test_names_say_the_split(tmp_path, names, splits):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert {split: len(paths) for split, paths in find_files(tmp_path).items()} == splits


def test_one_file_is_training_data_unless_its_name_says_otherwise(tmp_path):
    for name, split in {"mulberry_sft.json": "train", "MathVista_testmini.parquet": "test"}.items():
        (tmp_path / name).touch()
        assert find_files(tmp_path / name) == {split: [tmp_path / name]}


@pytest.mark.parametrize(
    ("names", "source", "error", "message"),
    [
        ([], "nowhere", FileNotFoundError, "nowhere: no such file or directory"),
        (["a.txt"], ".", FileNotFoundError, r"no data here; expected files that end in .json"),
        (["a.txt"], "a.txt", ValueError, "a.txt: expected a file that ends in .json"),
        (["a.pkl"], "a.pkl", ValueError, "a.pkl: pickled files are not read"),
        (["a.pkl"], ".", ValueError, "a.pkl: pickled files are not read"),
        (["train.json", "more.json"], ".", ValueError, "more.json name no split, and other files do"),
    ],
)
def test_what_is_no_data_is_refused_by_name(tmp_path, names, source, error, message):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(error, match=message):
        find_files(tmp_path / source)


def test_a_source_on_the_hub_is_its_snapshot(tmp_path, monkeypatch):
    """Without a network, a snapshot that the hub's client has kept; without one, no data."""
    repository = tmp_path / "datasets--someone--squares"
    snapshot = repository / "snapshots" / ("0" * 40)
    (snapshot / "data").mkdir(parents=True)
    (snapshot / "data" / "train.jsonl").write_text(LINES)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    (path,) = find_files(local_source("someone/squares"))["train"]
    assert list(read_rows(path)) == ROWS
    with pytest.raises(
        FileNotFoundError, match="someone/circles: no such file or directory, and the hub does not give it"
    ):
        local_source("someone/circles")


def test_a_local_source_is_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.json").touch()
    assert local_source("~/a.json") == tmp_path / "a.json"
    assert str(local_source("nowhere/a.json")) == "nowhere/a.json"
