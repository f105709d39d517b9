"""Records as an iterator, under the names that `r1vl_jax.data` gives the readers."""

import logging

import pytest

from r1vl_jax import data
from r1vl_jax.config.settings import LAYOUTS


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


def test_there_is_a_reader_for_each_layout():
    for layout in LAYOUTS:
        assert callable(getattr(data, f"from_{layout.replace('-', '_')}"))
    with pytest.raises(AttributeError, match="has no 'from_mullberry'; it has from_files, from_mulberry"):
        data.from_mullberry  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'mulberry'"):
        data.mulberry  # noqa: B018
