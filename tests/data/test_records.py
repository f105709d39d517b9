"""Records survive a round trip through ArrayRecord, invalid ones are left out by name, and data are hashed once."""

import contextlib
import errno
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from r1vl_jax.data import fields
from r1vl_jax.data.records import (
    Record,
    Split,
    UnusableRecord,
    decode_images,
    decode_videos,
    fingerprint,
    invalid_reason,
    open_split,
    read_settings,
    write_splits,
)


def png(width: int, height: int) -> bytes:
    Image.new("RGB", (width, height), "teal").save(file := io.BytesIO(), "PNG")
    return file.getvalue()


PNG = png(28, 28)


@pytest.fixture
def records(make_record):
    return [
        make_record(id="plain"),
        make_record(id="ünïcode", problem="<image>Größe? 🙂", key_steps=(("a",), ("", "b", "c"), (), (" ",))),
        make_record(id="bare", key_steps=(), response="", images=(make_record().images[0] + b"\0\0",)),
        make_record(id="turns", system="Sei brief.", history=(("<image>Größe?", "8"), ("a", "")), problem="And?"),
        make_record(id="videos", videos=((PNG, PNG), (PNG,)), fps=(0.5, 30), problem="<image><video> or <video>?"),
        make_record(id="answers", other_answers=("zwölf", "12.0")),
    ]


def test_records_survive_a_round_trip(tmp_path, records):
    dropped = write_splits(tmp_path / "data", {"train": records, "test": records[:1]}, settings={"seed": 3, "a": "b"})
    assert dropped == []
    split = open_split(tmp_path / "data", "train")
    assert list(split) == records
    assert split[2] == records[2]
    assert len(open_split(tmp_path / "data", "test")) == 1
    assert read_settings(tmp_path / "data") == {"seed": 3, "a": "b"}


def test_tensorflow_datasets_opens_what_was_written(tmp_path, records):
    write_splits(tmp_path / "data", {"train": records}, settings={})
    row = tfds.builder_from_directory(tmp_path / "data").as_data_source("train")[1]
    assert row["images"] == list(records[1].images)
    assert [list(group) for group in row["key_steps"]] == [[b"a"], [b"b", b"c"]]
    assert row["problem"].decode() == records[1].problem


ADDED = ("system", "history", "videos", "fps", "other_answers")


def test_data_sets_of_earlier_versions_are_opened(tmp_path, make_record):
    """Which lack the columns that were added since."""
    write_splits(tmp_path / "data", {"train": [make_record()]}, settings={})
    features = tmp_path / "data" / "features.json"
    content = json.loads(features.read_text())
    for name in ADDED:
        del content["featuresDict"]["features"][name]
    features.write_text(json.dumps(content))
    path = str(tmp_path / "data" / "records-train.array_record-00000-of-00001")
    example = tf_example_pb2.Example.FromString(ArrayRecordReader(path).read([0])[0])
    for column in [name for name in example.features.feature if name.partition("/")[0] in ADDED]:
        del example.features.feature[column]
    with contextlib.closing(ArrayRecordWriter(path, "group_size:1")) as writer:
        writer.write(example.SerializeToString())
    assert list(open_split(tmp_path / "data", "train")) == [make_record()]


def test_the_same_records_give_the_same_bytes_in_another_process(tmp_path, records):
    """The order of a protocol buffer's map is not deterministic; the fingerprint of the data must not depend on it."""
    code = f"""if True:
        from r1vl_jax.data.records import Record, write_splits
        write_splits({str(tmp_path / "other")!r}, {{"train": {records!r}}}, settings={{}})"""
    subprocess.run([sys.executable, "-c", code], check=True)
    write_splits(tmp_path / "data", {"train": records}, settings={})
    name = "records-train.array_record-00000-of-00001"
    assert (tmp_path / "data" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_invalid_records_are_left_out_by_name(tmp_path, make_record):
    mute, blind = make_record(id="mute", answer=" ", response=""), make_record(id="blind", images=())
    dropped = write_splits(tmp_path / "data", {"train": [make_record(id="good"), mute, blind]}, settings={})
    assert dropped == [
        "train mute: it has no answer, and no response to train on",
        "train blind: expected one <image> for each of 0 images, got 1",
    ]
    assert [record.id for record in open_split(tmp_path / "data", "train")] == ["good"]


def test_a_record_is_made_with_defaults(tmp_path, make_record):
    encoded = make_record().images[0]
    (tmp_path / "a.png").write_bytes(encoded)
    record = Record.make("How many?", images=[tmp_path / "a.png", encoded], answer="2", key_steps=["1+1=2"])
    assert record.problem == "<image><image>How many?"
    assert (record.images, record.solution, record.key_steps) == ((encoded, encoded), "2", (("1+1=2",),))
    assert len(record.id) == 16
    assert record.id == Record.make("How many?", images=[encoded, encoded], answer="2").id
    assert record.id != Record.make("How many?", images=[encoded, encoded], answer="3").id
    (image,) = decode_images(Record.make("What?", images=[Image.new("RGB", (3, 2), "teal")], answer="a", id="x"))
    assert image.getpixel((0, 0)) == (0, 128, 128)


def test_a_record_of_videos_is_made(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    record = Record.make("What?", videos=[[tmp_path / "a.png", PNG], [PNG]], answer="2")
    assert (record.problem, record.videos, record.fps) == ("<video><video>What?", ((PNG, PNG), (PNG,)), (2.0, 2.0))
    turned = Record.make("<video 2> <video 1>?", videos=[[PNG, PNG], [PNG]], fps=[1, 4.0], answer="2")
    assert (turned.videos, turned.fps) == (((PNG,), (PNG, PNG)), (4.0, 1))
    video, _ = decode_videos(turned)
    assert ([frame.size for frame in video.frames], video.fps) == ([(28, 28)], 4.0)


def test_one_picture_needs_no_list(tmp_path):
    (path := tmp_path / "a.png").write_bytes(PNG)
    for given in (path, str(path), PNG):
        assert Record.make("What?", images=given, answer="2").images == (PNG,)
        assert Record.make("What?", videos=given, answer="2").videos == ((PNG,),)
        assert Record.make("What?", videos=[given, given], answer="2").videos == ((PNG, PNG),)
        assert Record.make("What?", videos=[given, [PNG, PNG]], answer="2").videos == ((PNG,), (PNG, PNG))
    (image,) = decode_images(Record.make("What?", images=Image.new("RGB", (3, 2), "teal"), answer="a"))
    assert image.size == (3, 2)


def test_a_question_may_be_a_picture_alone():
    assert Record.make("", images=PNG, response="A square.").problem == "<image>"


def test_a_conversation_is_made(make_record):
    encoded = make_record().images[0]
    record = Record.make("And?", images=[encoded], answer="2", system="Be brief.", history=[["How many?", "1"]])
    assert (record.system, record.history) == ("Be brief.", (("<image>How many?", "1"),))
    assert record.id != Record.make("And?", images=[encoded], answer="2", history=[["How many?", "1"]]).id
    counted = Record.make("And <image>?", images=[encoded] * 2, answer="2", history=[["<image>How many?", "1"]])
    assert counted.problem == "And <image>?"


def test_several_answers_are_made():
    record = Record.make("How many?", answer="12", other_answers=["twelve", "a dozen"])
    assert (record.answer, record.other_answers) == ("12", ("twelve", "a dozen"))
    assert record.id != Record.make("How many?", answer="12").id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "record '.*': it has no answer, and no response to train on"),
        ({"answer": 5, "id": "a"}, r"record 'a': field 'answer': expected text \(str\), got 5"),
        ({"answer": "5", "images": ["nowhere.png"], "id": "a"}, "record 'a': .*No such file.*'nowhere.png'"),
        ({"answer": "5", "images": [b"junk"]}, r"image 1 \(4 bytes\) is unreadable"),
        ({"answer": "5", "images": [7]}, r"field 'images': expected encoded image files \(bytes\), got 7"),
        ({"answer": "5", "images": None}, "field 'images': expected one or several of paths, .*, got None"),
        ({"answer": "5", "images": 5}, r"field 'images': expected one or several of paths, .*, got 5 \(int\)"),
        ({"answer": "5", "images": {"path": "a.png"}}, "field 'images': expected one or several of paths, .* got {'p"),
        ({"answer": "5", "images": "nowhere.png"}, "No such file.*'nowhere.png'"),
        ({"answer": "5", "images": ["a.png\0"]}, r"path 'a.png\\x00': embedded null byte"),
        ({"answer": "5", "videos": None}, "field 'videos': expected one or several of paths, .*, got None"),
        ({"answer": "5", "videos": 5}, "field 'videos': expected one or several of paths, .*, got 5"),
        ({"answer": "5", "videos": [[PNG], 5]}, "field 'videos': expected one or several of paths, .*, got 5"),
        ({"answer": "5", "fps": None}, "field 'fps': expected a number, or one for each video, got None"),
        (
            {"answer": "5", "videos": [PNG], "fps": "1"},
            "field 'fps': expected a number, or one for each video, got '1'",
        ),
        ({"answer": "5", "problem": " "}, "its question is empty: expected a text in `problem`"),
        ({"answer": "5", "key_steps": 7}, "field 'key_steps': expected a list of groups, got 7"),
        ({"answer": "5", "history": [["a"]]}, "field 'history': expected a question and its answer, got"),
        ({"answer": "5", "history": [["a", 5]]}, r"field 'history': expected text \(str\), got 5"),
        ({"answer": "5", "history": "a"}, "field 'history': expected a tuple of questions"),
        ({"answer": "5", "videos": [[]]}, "field 'videos': expected a tuple of videos, each of at least one frame"),
        ({"answer": "5", "videos": [[7]]}, r"got 7 \(int\) as video 1, frame 1; give the bytes of the file"),
        ({"answer": "5", "videos": [[PNG], [PNG]], "fps": [1]}, "field 'fps': expected .* for each of 2 videos, got"),
        ({"answer": "5", "videos": [[PNG]], "fps": 0}, r"field 'fps': .* above 0 .*, got \(0,\)"),
        ({"answer": "5", "videos": [[PNG, b"junk"]]}, r"frame 2 of video 1 \(4 bytes\) is unreadable"),
        (
            {"answer": "5", "videos": [[PNG, png(28, 56)]]},
            r"video 1: expected frames of one size, got \[\(28, 28\), \(28,",
        ),
        ({"answer": "5", "problem": "<video>"}, "its problem has 1 <video> and there is no video"),
        ({"answer": "5", "other_answers": "6"}, "field 'other_answers': expected a tuple of texts, got '6'"),
        ({"answer": "5", "other_answers": [6]}, r"field 'other_answers': expected text \(str\), got 6"),
        ({"response": "5", "other_answers": ["6"]}, "it has other answers, and none in `answer`"),
        ({"answer": "5", "problem": None}, "field 'problem': expected text"),
        ({"answer": "5", "problem": "<image>"}, "its problem has 1 <image> and there is no image"),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_an_invalid_record_is_not_made(changes, message):
    with pytest.raises(UnusableRecord, match=message):
        Record.make(**({"problem": "What?"} | changes))


def test_text_alone_and_open_ended_responses_are_records(tmp_path, make_record):
    records = [make_record(id="text", images=(), problem="What is 3 + 5?"), make_record(id="open", answer="")]
    assert write_splits(tmp_path / "data", {"train": records}, settings={}) == []
    assert list(open_split(tmp_path / "data", "train")) == records


def test_records_of_other_types_are_left_out_by_name_or_place(tmp_path, make_record):
    records = [make_record(id="good"), make_record(id="number", answer=5), make_record(id=7), make_record(id="")]
    dropped = write_splits(tmp_path / "data", {"train": records}, settings={})
    assert dropped == [
        "train number: field 'answer': expected text (str), got 5 (int)",
        "train record 2: field 'id': expected text (str), got 7 (int)",
        "train record 3: field 'id': expected a text that names the record, got ''",
    ]
    assert len(open_split(tmp_path / "data", "train")) == 1


def test_two_records_of_one_id_are_refused_with_their_places(tmp_path, make_record):
    invalid = make_record(id="a", answer="", response="")
    records = [invalid, make_record(id="a"), make_record(id="b"), make_record(id="a", problem="<image>Another?")]
    with pytest.raises(
        ValueError, match=r"split 'train': records 1 and 3 \(counted from 0\) have one id, 'a'; messages"
    ):
        write_splits(tmp_path / "data", {"train": records}, settings={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "key_steps",
    [("1+1=2",), ["1+1=2"], (["1+1=2"],), {"Steps": ["1+1=2"]}, '{"Steps": [["1+1=2"]]}', (("1+1=2",),)],
    ids=repr,
)
def test_key_steps_of_every_layout_are_read_back_as_groups(tmp_path, make_record, key_steps):
    record = make_record(key_steps=key_steps)
    assert record.key_steps == (("1+1=2",),)
    assert write_splits(tmp_path / "data", {"train": [record]}, settings={}) == []
    assert open_split(tmp_path / "data", "train")[0] == record


def test_a_row_of_another_program_is_named_with_its_place(make_record):
    record = make_record()
    row = {name: getattr(record, name).encode() for name in fields.TEXTS}
    split = Split([row | {"images": record.images, "key_steps": [], "answer": 5}], "test")
    with pytest.raises(UnusableRecord, match=r"record 'test\[0\]': field 'answer': expected text, got 5 \(int\)"):
        list(split)


def test_reasons_of_invalid_records(make_record):
    image = make_record().images[0]
    assert invalid_reason(make_record()) is None
    assert invalid_reason(make_record(problem="What?")) == "expected one <image> for each of 1 images, got 0"
    assert "for each of 2 images, got 1" in str(invalid_reason(make_record(images=(image, image))))
    assert "image 1 (4 bytes) is unreadable: cannot identify" in str(invalid_reason(make_record(images=(b"junk",))))
    assert "is unreadable" in str(invalid_reason(make_record(images=(image[: len(image) // 2],))))
    assert "is unreadable: invalid literal" in str(invalid_reason(make_record(images=(b"P6 4x 4 255 " + bytes(48),))))


def test_pictures_are_opened_as_their_owner_sees_them(make_record):
    exif, photograph, drawing = Image.Exif(), io.BytesIO(), io.BytesIO()
    exif[0x0112] = 6
    Image.new("RGB", (120, 60)).save(photograph, "JPEG", exif=exif)
    Image.new("RGBA", (8, 8)).save(drawing, "PNG")
    record = make_record(images=(photograph.getvalue(), drawing.getvalue()), problem="<image><image>Which?")
    upright, on_white = decode_images(record)
    assert upright.size == (60, 120)
    assert on_white.getcolors() == [(64, (255, 255, 255))]


def test_an_interrupted_write_leaves_nothing(tmp_path, make_record):
    def interrupted():
        yield make_record()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_splits(tmp_path / "data", {"train": interrupted()}, settings={})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_directory_is_not_overwritten(tmp_path, make_record):
    with pytest.raises(FileExistsError, match="data is not overwritten; name a new directory, or delete this one"):
        write_splits(tmp_path, {"train": [make_record()]}, settings={})


def test_a_split_without_valid_records_is_refused(tmp_path, make_record):
    with pytest.raises(
        ValueError,
        match=r"splits \['train'\]: none of their records is valid; left out: \['train r-0: it has no answer, and",
    ):
        write_splits(tmp_path / "data", {"train": [make_record(answer="", response="")]}, settings={})


def test_missing_data_and_splits_are_named(tmp_path, make_record):
    with pytest.raises(FileNotFoundError, match=r"nowhere: no data set here \(expected dataset_info.json\)"):
        open_split(tmp_path / "nowhere", "train")
    write_splits(tmp_path / "data", {"train": [make_record()]}, settings={})
    with pytest.raises(FileNotFoundError, match=r"no split 'tset', only \['train'\]"):
        open_split(tmp_path / "data", "tset")


@pytest.fixture
def data(tmp_path, records) -> Path:
    write_splits(tmp_path / "data", {"train": records, "test": records[:1]}, settings={})
    return tmp_path / "data"


@pytest.fixture
def opened_splits(monkeypatch) -> list[str]:
    """Names of the record files that are opened, in order."""
    opened, open_path = [], Path.open

    def record_open(path: Path, *args, **kwargs):
        if "array_record" in path.name:
            opened.append(path.name)
        return open_path(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", record_open)
    return opened


def test_the_fingerprint_is_of_names_and_contents(data):
    digest = hashlib.sha256()
    for path in sorted(data.glob("*array_record*")):
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    assert fingerprint(data) == digest.hexdigest()
    assert fingerprint(str(data)) == digest.hexdigest()


def test_a_second_fingerprint_reads_no_record_file(data, opened_splits):
    first = fingerprint(data)
    assert len(opened_splits) == 2
    assert fingerprint(data) == first
    assert len(opened_splits) == 2
    assert len(open_split(data, "train")) == 6  # the cache does not disturb the data set


@pytest.mark.parametrize("change", ["content", "size", "name", "removed"])
def test_a_changed_file_changes_the_fingerprint(data, change):
    before = fingerprint(data)
    path = data / "records-test.array_record-00000-of-00001"
    stat, content = path.stat(), path.read_bytes()
    if change == "content":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    elif change == "size":
        path.write_bytes(content + b"\0")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "name":
        path.rename(data / "records-tset.array_record-00000-of-00001")
    else:
        path.unlink()
    assert fingerprint(data) != before


def test_a_read_only_directory_is_hashed_each_time(data, opened_splits, monkeypatch):
    files = sorted(path.name for path in data.iterdir())

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", refuse)
    assert fingerprint(data) == fingerprint(data)
    assert len(opened_splits) == 4
    assert sorted(path.name for path in data.iterdir()) == files


@pytest.mark.parametrize("content", ["{", "[]", '{"files": 1}', '{"files": [], "sha256": 7}'])
def test_a_damaged_cache_is_ignored(data, content):
    expected = fingerprint(data)
    (data / "fingerprint.json").write_text(content)
    assert fingerprint(data) == expected
