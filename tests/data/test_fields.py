"""A field of another type is named with what was expected and found; rows of other programs are read or refused."""

import dataclasses

import pytest

from r1vl_jax.data import fields
from r1vl_jax.data.records import Record

TEXT_FIELDS = [field.name for field in dataclasses.fields(Record) if field.type is str or field.type == "str"]
BAD_TEXTS = [
    (5, "5 (int)"),
    (None, "None (NoneType)"),
    (b"7", "b'7' (bytes)"),
    (["7"], "['7'] (list)"),
    (0.5, "0.5 (float)"),
]


@pytest.mark.parametrize("name", TEXT_FIELDS)
@pytest.mark.parametrize(("value", "shown"), BAD_TEXTS, ids=[shown for _, shown in BAD_TEXTS])
def test_another_type_than_text_is_named(make_record, name, value, shown):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        fields.check(make_record(**{name: value}))
    assert str(error.value) == f"field '{name}': expected text (str), got {shown}"


def test_all_text_fields_are_checked():
    assert set(TEXT_FIELDS) == set(fields.TEXTS)


@pytest.mark.parametrize("name", TEXT_FIELDS)
def test_half_a_surrogate_pair_is_named(make_record, name):
    with pytest.raises(ValueError, match=rf"field '{name}': .* UTF-8 can write, got '\\ud83d', .* as character 2 "):
        fields.check(make_record(**{name: "ab\ud83d"}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ""}, "field 'id': expected a text that names the record, got ''"),
        (
            {"images": ("picture.png",)},
            "expected encoded image files (bytes), got 'picture.png' (str) as image 1",
        ),
        (
            {"images": "picture.png"},
            "expected a tuple of encoded image files (bytes), got 'picture.png'",
        ),
        ({"images": b"\x89PNG"}, "expected a tuple of encoded image files (bytes), got b'\\x89PNG' (bytes)"),
        ({"images": None}, "field 'images': expected a tuple of encoded image files (bytes), got None (NoneType)"),
        ({"images": (b"", 3)}, "got 3 (int) as image 2; give the bytes of the file"),
        ({"key_steps": None}, "field 'key_steps': expected a list of groups, got None"),
        ({"key_steps": "1+1=2"}, "field 'key_steps': expected a list of groups, got '1+1=2'"),
        ({"key_steps": [None]}, "field 'key_steps': expected a list of groups, got None as group 1"),
        ({"key_steps": ["a", ["b", 2]]}, "field 'key_steps': expected a list of groups, got ['b', 2] as group 2"),
        ({"key_steps": 7}, "field 'key_steps': expected a list of groups, got 7"),
        ({"key_steps": [[b"a"]]}, "field 'key_steps': expected text (str), got b'a' (bytes)"),
        ({"key_steps": [["a\udc00"]]}, "field 'key_steps': expected text that UTF-8 can write"),
    ],
    ids=lambda value: "" if isinstance(value, str) else repr(value),
)
def test_another_type_is_named(make_record, changes, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        fields.check(make_record(**changes))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"videos": b"junk"}, "field 'videos': expected a tuple of videos, each of at least one frame, got b'junk'"),
        ({"videos": ("a.mp4",)}, "field 'videos': expected a tuple of encoded image files (bytes), got 'a.mp4' (str)"),
        (
            {"videos": ((b"a",),), "fps": ("2",)},
            "field 'fps': expected a number of frames a second above 0 for each of 1",
        ),
        ({"fps": (2.0,)}, "above 0 for each of 0 videos, got (2.0,) (tuple)"),
        ({"history": (("a",),)}, "field 'history': expected a question and its answer, got ('a',) (tuple) as 1"),
        ({"history": "a"}, "field 'history': expected a tuple of questions with their answers, got 'a' (str)"),
        ({"history": (("a", 5),)}, "field 'history': expected text (str), got 5 (int)"),
    ],
    ids=lambda value: "" if isinstance(value, str) else repr(value),
)
def test_another_type_of_a_conversation_is_named(make_record, changes, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        fields.check(make_record(**changes))
    assert message in str(error.value)


def test_something_else_than_a_record_is_named():
    with pytest.raises(ValueError, match=r"expected a Record, got \{'id': 'a'\} \(dict\)"):
        fields.check({"id": "a"})


@pytest.fixture
def row(make_record):
    """A row as `tensorflow_datasets` reads it."""
    record = make_record()
    texts = {name: getattr(record, name).encode() for name in fields.TEXTS}
    return texts | {"images": list(record.images), "key_steps": [[b"3 + 5 = 8", b"8 = 3 + 5"]]}


def test_a_row_gives_its_record(make_record, row):
    assert Record(**fields.from_row(row)) == make_record()


def test_a_row_of_bare_key_steps_gives_groups_of_one(row):
    assert Record(**fields.from_row(row | {"key_steps": [b"1+1=2", [b"a", b"b"]]})).key_steps == (
        ("1+1=2",),
        ("a", "b"),
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": 5}, "field 'answer': expected text, got 5 (int)"),
        ({"kind": b"\xff"}, "field 'kind': expected text in UTF-8, got b'\\xff' (bytes) (invalid start byte)"),
        ({"key_steps": [[3]]}, "field 'key_steps': expected text, got 3 (int)"),
        ({"key_steps": [3]}, "field 'key_steps': expected a sequence of texts, got 3 (int)"),
        ({"key_steps": None}, "field 'key_steps': expected a sequence of groups of texts, got None (NoneType)"),
        ({"images": 3}, "field 'images': expected a sequence of encoded image files (bytes), got 3 (int)"),
        ({"images": b"png"}, "field 'images': expected a sequence of encoded image files (bytes), got b'png' (bytes)"),
        ({"history": [[5]]}, "field 'history': expected text, got 5 (int)"),
        ({"videos": [b"png"]}, "field 'videos': expected a sequence of frames, got b'png' (bytes)"),
        ({"fps": 2.0}, "field 'fps': expected a sequence of numbers, got 2.0 (float)"),
    ],
    ids=repr,
)
def test_a_row_of_another_type_is_named(row, changes, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        fields.from_row(row | changes)
    assert str(error.value) == message


def test_a_missing_column_is_named(row):
    del row["response"]
    with pytest.raises(ValueError, match=r"field 'response': expected text, got None \(NoneType\)"):
        fields.from_row(row)
