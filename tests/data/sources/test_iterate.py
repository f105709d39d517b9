"""Records as an iterator, under the names that `r1vl_jax.data` gives the readers."""

import logging

import pytest

from r1vl_jax import data
from r1vl_jax.config.settings import LAYOUTS
from r1vl_jax.data.records import write_splits


def test_records_of_a_named_layout(write_json, root, png):
    turns = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "4"}]
    path = write_json("data/mulberry.json", [{"messages": turns, "images": "pictures/a.png"}])
    (record,) = data.from_mulberry(path, images=root)
    assert (record.id, record.images, record.response, record.answer) == ("mulberry/train/0", (png,), "4", "4")
    assert list(data.from_files(path, root)) == [record]
    assert list(data.from_messages(path, root)) == [record]


def test_key_steps_by_rule_are_left_out_if_asked(write_json, root):
    turns = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "It is 17 + 25 = 42.\n#### 42"}]
    path = write_json("data.json", [{"messages": turns}])
    ((first, *_),) = [record.key_steps for record in data.from_messages(path)]
    assert first[0] == "17 + 25 = 42"
    assert [record.key_steps for record in data.from_messages(path, key_steps="none")] == [()]


def test_rows_that_are_no_records_are_logged(write_json, caplog):
    rows = [{"problem": "What?", "answer": 1}, {"problem": ["What?"], "answer": 1}]
    with caplog.at_level(logging.WARNING):
        (record,) = data.from_problem(write_json("rows.json", rows))
    assert record.answer == "1"
    assert "left out: record 'rows/train/1': column 'problem': expected text, got ['What?'] (list)" in caplog.text


def test_records_are_valid_and_have_ids_of_their_own(write_json, root, caplog, tmp_path):
    row = {"question": "What?", "image": "pictures/a.png", "qid": "q", "answer": 1}
    spoiled = [row | {"answer": None}, row | {"key_steps": 5}, row | {"key_steps": "count"}, row | {"qid": "\ud800"}]
    path = write_json("data/rows.json", [row, *spoiled, row, row | {"qid": "q#5"}])
    with caplog.at_level(logging.WARNING):
        records = list(data.from_virl39k(path, root))
    assert [record.id for record in records] == ["q", "q#5", "q#5#6"]
    assert caplog.text.count("left out: record") == len(spoiled)
    assert "left out: record 'q': it has no answer, and no response to train on" in caplog.text
    assert "'key_steps': expected a list of groups, got 5" in caplog.text
    assert write_splits(tmp_path / "written", {"train": records}, settings={}) == []


def test_ids_of_two_splits_are_not_one(write_json, root):
    for split in ("train", "test"):
        write_json(f"data/{split}.json", [{"problem": "What?", "answer": 1, "id": "a"}])
    assert [record.id for record in data.from_files(root / "data")] == ["a", "a#0"]


def test_wrong_arguments_are_refused_by_name(write_json):
    path = write_json("rows.json", [{"problem": "What?", "answer": 1}])
    for wrong in ({"layout": "foo"}, {"columns": "answr=a"}):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"data.{name}="):
            list(data.from_files(path, **wrong))


def test_there_is_a_reader_for_each_layout():
    for layout in LAYOUTS:
        assert callable(getattr(data, f"from_{layout.replace('-', '_')}"))
    with pytest.raises(AttributeError, match="has no 'from_mullberry'; it has from_files, from_mulberry"):
        data.from_mullberry  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'mulberry'"):
        data.mulberry  # noqa: B018
