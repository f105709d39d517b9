import subprocess
import sys

import pytest
import tensorflow_datasets as tfds

from r1vl_jax.data.records import invalid_reason, open_split, read_settings, write_splits


@pytest.fixture
def records(make_record):
    return [
        make_record(id="plain"),
        make_record(id="ünïcode", problem="<image>Größe? 🙂", key_steps=(("a",), (), ("b", "c"))),
        make_record(id="bare", key_steps=(), response="", images=(make_record().images[0] + b"\0\0",)),
    ]


def test_records_come_back_as_they_were(tmp_path, records):
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
    assert [list(group) for group in row["key_steps"]] == [[b"a"], [], [b"b", b"c"]]
    assert row["problem"].decode() == records[1].problem


def test_the_same_records_give_the_same_bytes_in_another_process(tmp_path, records):
    """Protocol buffers leave the order of a map to chance; the fingerprint of the data must not depend on it."""
    code = f"""if True:
        from r1vl_jax.data.records import Record, write_splits
        write_splits({str(tmp_path / "other")!r}, {{"train": {records!r}}}, settings={{}})"""
    subprocess.run([sys.executable, "-c", code], check=True)
    write_splits(tmp_path / "data", {"train": records}, settings={})
    name = "records-train.array_record-00000-of-00001"
    assert (tmp_path / "data" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_unusable_records_are_left_out_by_name(tmp_path, make_record):
    records = [make_record(id="good"), make_record(id="mute", answer=" "), make_record(id="blind", images=())]
    dropped = write_splits(tmp_path / "data", {"train": records}, settings={})
    assert dropped == ["train mute: it has no answer", "train blind: it has no image"]
    assert [record.id for record in open_split(tmp_path / "data", "train")] == ["good"]


def test_problems_are_told(make_record):
    image = make_record().images[0]
    assert invalid_reason(make_record()) is None
    assert invalid_reason(make_record(problem="What?")) == "expected one <image> for each of 1 images, got 0"
    assert "for each of 2 images, got 1" in str(invalid_reason(make_record(images=(image, image))))
    assert "image 1 (4 bytes) is unreadable: cannot identify" in str(invalid_reason(make_record(images=(b"junk",))))
    assert "is unreadable" in str(invalid_reason(make_record(images=(image[: len(image) // 2],))))
    assert "is unreadable: invalid literal" in str(invalid_reason(make_record(images=(b"P6 4x 4 255 " + bytes(48),))))


def test_an_interrupted_write_leaves_nothing(tmp_path, make_record):
    def interrupted():
        yield make_record()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_splits(tmp_path / "data", {"train": interrupted()}, settings={})
    assert list(tmp_path.iterdir()) == []


def test_data_are_not_overwritten(tmp_path, make_record):
    with pytest.raises(FileExistsError, match="data is not overwritten; name a new directory, or delete this one"):
        write_splits(tmp_path, {"train": [make_record()]}, settings={})


def test_a_split_without_usable_records_is_refused(tmp_path, make_record):
    with pytest.raises(
        ValueError,
        match=r"splits \['train'\]: none of their records is usable; left out: \['train r-0: it has no answer'\]",
    ):
        write_splits(tmp_path / "data", {"train": [make_record(answer="")]}, settings={})


def test_missing_data_and_splits_are_named(tmp_path, make_record):
    with pytest.raises(FileNotFoundError, match=r"nowhere: no data set here \(expected dataset_info.json\)"):
        open_split(tmp_path / "nowhere", "train")
    write_splits(tmp_path / "data", {"train": [make_record()]}, settings={})
    with pytest.raises(FileNotFoundError, match=r"no split 'tset', only \['train'\]"):
        open_split(tmp_path / "data", "tset")
