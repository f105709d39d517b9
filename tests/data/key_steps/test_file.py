"""A file of key steps: written line by line, cut off by a crash, edited by hand, read when data are prepared."""

import json
from dataclasses import replace

import pytest

from r1vl_jax.config import Data
from r1vl_jax.data.key_steps.file import KeyStepsFile, append, open_to_append
from r1vl_jax.data.key_steps.found import KeySteps
from r1vl_jax.data.records import Record, open_split
from r1vl_jax.data.sources.preparation import Preparation
from r1vl_jax.data.sources.prepare import prepare
from r1vl_jax.training.sources import find_sources

FOUND = KeySteps((("8*6=48", "8 times 6 is 48"), ("48+5=53",)), {"8*6=48": "a computation"}, {"5=5": "no step"})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "below" / "key_steps.jsonl"


def record(record_id, **changes):
    return Record.make(
        **{"problem": "How many?", "answer": "53", "solution": "48 + 5 = 53.", "id": record_id} | changes
    )


def write(path, *ids, split="train", by="rule"):
    with open_to_append(path) as file:
        append(file, [(split, record(each), FOUND) for each in ids], by=by)


def test_what_is_written_is_read_with_its_line(path):
    write(path, "a", "b")
    write(path, "c", split="test", by="a model")
    file = KeyStepsFile(path)
    assert (len(file), file.makers()) == (3, {"rule", "a model"})
    assert file.find("train", record("b")).found == FOUND
    found = [file.find(split, record(each)) for split, each in (("train", "a"), ("train", "b"), ("test", "c"))]
    assert [line.number for line in found] == [1, 2, 3]
    assert file.find("test", record("a")) is None
    assert file.find("train", record("a", problem="Another question?")) is None


def test_an_absent_file_is_empty(path):
    assert len(KeyStepsFile(path)) == 0
    assert not path.exists()


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_line_that_a_crash_cut_off_is_none_and_is_replaced(path, cut):
    write(path, "a", "ü")
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert [KeyStepsFile(path).find("train", record(each)) is not None for each in ("a", "ü")] == [True, cut == 1]
    write(path, *(["ü"] if cut > 1 else []), "b")
    assert len(path.read_text().splitlines()) == len(KeyStepsFile(path)) == 3


def test_a_file_written_by_hand_needs_id_and_key_steps(path):
    path.parent.mkdir()
    path.write_text('\n{"id": "a", "key_steps": ["1+1=2", ["2*3=6", "3*2=6"], ""]}')
    line = KeyStepsFile(path).find("any", record("a"))
    assert line.found.groups == (("1+1=2",), ("2*3=6", "3*2=6"))
    assert (line.number, line.by) == (2, "")


def test_what_another_program_or_hand_left_at_the_end_is_neither_skipped_nor_cut_off(path):
    path.parent.mkdir()
    for text in ("# my notes", '{"id": "a", "key_steps": [["1+1=2",],]}', "\ufeffnotes"):
        path.write_text(text)
        with pytest.raises(ValueError, match="line 1: "):
            KeyStepsFile(path)
        open_to_append(path).close()
        assert path.read_text().strip() == text.strip()


def test_byte_order_marks_and_line_ends_of_windows_are_read(path):
    write(path, "a", "b")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b'{"split": "tra')
    assert len(KeyStepsFile(path)) == 2
    write(path, "c")
    assert len(KeyStepsFile(path)) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'id': 1}", "line 1: Expecting property name"),
        ("[1]", "line 1: expected an object with `id`, a text, and `key_steps`, got \\[1\\]"),
        ('{"id": 5, "key_steps": []}', "expected an object with `id`, a text"),
        ('{"id": "a"}', "and `key_steps`"),
        ('{"id": "a", "key_steps": {"a": 1}}', "line 1: expected a list of groups"),
        ('{"id": "a", "key_steps": [[1]]}', "as group 1"),
        ('{"id": "z", "key_steps": []}', "lines 1 and 2 are both of record 'z'"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(path, line, message):
    path.parent.mkdir()
    path.write_text(f'{line}\n{{"id": "z", "key_steps": []}}\n')
    with pytest.raises(ValueError, match=f"key_steps.jsonl.*{message}"):
        KeyStepsFile(path)


def test_a_file_of_another_kind_is_refused(path):
    path.parent.mkdir()
    path.write_bytes(b"\x89PNG\xff")
    with pytest.raises(ValueError, match="cannot be read as a file of key steps"):
        KeyStepsFile(path)


def rows(*ids):
    return [{"id": each, "problem": "How many?", "answer": "53", "solution": "48 + 5 = 53."} for each in ids]


def key_steps(directory, split="train"):
    return {record.id: record.key_steps for record in open_split(directory, split)}


def test_a_run_s_records_have_those_of_the_file(path, write_json, tmp_path):
    source = write_json("rows.json", rows("a", "b", "a"))
    path.parent.mkdir()
    lines = [
        {"id": "a", "key_steps": [["first"]], "split": None},
        {"split": "train", "id": "a#2", "key_steps": [["third"]]},
        {"split": "test", "id": "b", "key_steps": [["another split's"]]},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    preparation = Preparation(str(source), key_steps=str(path))
    prepared = prepare(preparation, tmp_path / "cache")
    assert key_steps(prepared.directory) == {"a": (("first",),), "b": (), "a#2": (("third",),)}
    assert "  key steps of data.key_steps: 2 records" in prepared.summary
    held_out = prepare(replace(preparation, test_size=1, split_seed=2), tmp_path / "cache").directory
    found = key_steps(held_out) | key_steps(held_out, "test")
    assert sorted(found.values()) == [(), (("first",),), (("third",),)] or found["b"] == ()


def test_key_steps_reach_no_record_of_other_texts(path, write_json, tmp_path):
    """Of rows with one id, of another source with the same names, or of a source to which rows were added."""
    write(path, "a")
    other = [{"id": "a", "problem": "Another?", "answer": "9", "solution": "4 + 5 = 9."}]
    source = write_json("rows.json", rows("a") + other)
    assert key_steps(prepare(Preparation(str(source), key_steps=str(path)), tmp_path / "cache").directory) == {
        "a": FOUND.groups,
        "a#1": (),
    }


def test_an_edited_file_prepares_anew_and_one_of_other_data_is_noticed(path, write_json, tmp_path):
    source = write_json("rows.json", rows("a"))
    write(path, "a")
    preparation = Preparation(str(source), key_steps=str(path))
    first = prepare(preparation, tmp_path / "cache").directory
    path.write_text(path.read_text().replace("8*6=48", "8*6 = 48"))
    second = prepare(preparation, tmp_path / "cache").directory
    assert (key_steps(first)["a"][0][0], key_steps(second)["a"][0][0]) == ("8*6=48", "8*6 = 48")
    write(other := path.with_name("other.jsonl"), "z")
    summary = prepare(replace(preparation, key_steps=str(other)), tmp_path / "cache").summary
    assert "has key steps of none of these records" in "\n".join(summary)


def test_a_file_that_is_not_there_is_refused_before_anything_is_read(write_json, tmp_path):
    absent: list[str] = []
    find_sources(Data(source=str(write_json("rows.json", rows("a"))), key_steps="no.jsonl"), ["train"], absent)
    assert ["no such file; make it with python -m r1vl_jax.data.key_steps" in line for line in absent] == [True]
    with pytest.raises(FileNotFoundError, match="data.key_steps='no.jsonl'"):
        prepare(Preparation(str(write_json("rows.json", rows("a"))), key_steps="no.jsonl"), tmp_path / "cache")
    with pytest.raises(ValueError, match="data.key_steps='rules': expected one of .* or a file of key steps"):
        Preparation("rows.json", key_steps="rules")
