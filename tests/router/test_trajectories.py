"""Trajectories in the original's layout become records of their steps, and records trajectories again."""

import copy
import io
import json

import pytest
from PIL import Image

from r1vl_jax.data.records import UnusableRecord, open_split, split_names
from r1vl_jax.router import convert
from r1vl_jax.router.picture_files import PictureFiles
from r1vl_jax.router.trajectories import read_trajectories, read_trajectory, write_trajectories


def ret(query="where is it?", retriever="text image retriever", problem="Question\n<image>"):
    return {"step_type": "ret", "problem": problem, "system": "S", "answer": {"query": query, "retriever": [retriever]}}


def ans(answer: str | list[str] = "oslo", problem="Documents\n<image>"):
    return {"step_type": "ans", "problem": problem, "system": "", "answer": answer}


END = ret("none", "none")
ROW = {"images": ["/home/somebody/oven_images/a.png"], "steps": [ret(), ans(), END, ans(["Oslo", "Christiania"])]}
TEXT_ROW = {"images": [], "steps": [ret(problem="Q"), ans(problem="D"), ans("yes", problem="Q")]}


def png(colour):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images" / "oven_images").mkdir(parents=True)
    (tmp_path / "images" / "oven_images" / "a.png").write_bytes(png("red"))
    (tmp_path / "images" / "b.png").write_bytes(png("blue"))
    return tmp_path / "images"


def read(row, images):
    return read_trajectory(row, PictureFiles(images), name="t-00000", source="s")


def test_each_step_is_a_record(images):
    first, second, third, last = read(ROW, images)
    assert [record.id for record in (first, second, third, last)] == [f"t-00000/{number}" for number in (1, 2, 3, 4)]
    assert [record.kind for record in (first, second, third, last)] == ["ret", "ans", "ret", "ans"]
    assert (first.system, first.problem, first.source) == ("S", "Question\n<image>", "s")
    assert json.loads(first.answer) == {"query": "where is it?", "retriever": ["text image retriever"]}
    assert [json.loads(record.answer) for record in (second, last)] == ["oslo", ["Oslo", "Christiania"]]
    assert {record.images for record in (first, second, third, last)} == {(png("red"),)}
    assert second.response == ""


def test_a_row_without_pictures_has_none(images):
    assert [record.images for record in read(TEXT_ROW, images)] == [(), (), ()]


def test_a_picture_stands_where_it_is_marked_and_nowhere_else(images):
    row = {"images": ["b.png"], "steps": [ret(problem="a <image> b"), ans(problem="no picture"), ans()]}
    first, second, _ = read(row, images)
    assert (first.problem, first.images) == ("a <image> b", (png("blue"),))
    assert (second.problem, second.images) == ("no picture", ())


@pytest.mark.parametrize(
    "steps", [[ans()], [END, ans()], [ret(), ans(), ans()], [ret(), ans(), ret(), ans(), ret(), ans(), ans()]]
)
def test_a_search_may_end_or_be_cut_off(images, steps):
    assert len(read({"images": ["b.png"], "steps": steps}, images)) == len(steps)


OUT_OF_ORDER = {
    "no end": [ret(), ans()],
    "two retrievals": [ret(), ret(), ans(), ans()],
    "a retrieval last": [ret(), ans(), END],
    "a retrieval after the end": [END, ret(), ans(), ans()],
    "two final answers": [ret(), ans(), END, ans(), ans()],
    "an answer first": [ans(), ret(), ans()],
}


@pytest.mark.parametrize("name", OUT_OF_ORDER)
def test_steps_out_of_order_are_refused(images, name):
    with pytest.raises(UnusableRecord, match="record 't-00000': steps out of order: expected ret and ans by turns"):
        read({"images": ["b.png"], "steps": OUT_OF_ORDER[name]}, images)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"step_type": "act"}, "step 2: expected step_type 'ret' or 'ans', got 'act'"),
        ({"step_type": ["ans"]}, "step 2: expected step_type"),
        ({"answer": ""}, "step 2: expected answers that are texts, none of them empty, got ''"),
        ({"answer": None}, "step 2: expected an answer or a list of answers, got None"),
        ({"problem": None}, "problem: expected a text, got None"),
        ({"problem": " "}, "its question is empty"),
        ({"problem": "<image> or <image>"}, "expected <image> for each of 1 images, got 2"),
        ({"system": 1}, "system: expected a text, got 1"),
    ],
)
def test_an_unusable_step_is_named(images, change, reason):
    row = copy.deepcopy(ROW)
    row["steps"][1] |= change
    with pytest.raises(UnusableRecord) as caught:
        read(row, images)
    assert caught.value.reason.startswith(reason)
    assert caught.value.name.startswith("t-00000")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"images": [], "steps": []}, "steps: expected a list of steps, got []"),
        ({"images": []}, "steps: expected a list of steps, got None"),
        ({"images": [], "steps": ["ret"]}, "step 1: expected step_type 'ret' or 'ans', got 'ret'"),
        (ROW | {"images": ["c.png"]}, "picture 'c.png': no such file below"),
        (ROW | {"images": []}, "expected <image> for each of 0 images, got 1"),
        (ROW | {"images": ["b.png", "b.png"]}, "expected <image> for each of 2 images, got 1"),
    ],
)
def test_an_unusable_row_is_named_and_others_are_kept(images, row, reason):
    dropped = []
    rows = [ROW, row, TEXT_ROW]
    kept = list(read_trajectories(rows, PictureFiles(images), name="t", source="s", drop=dropped.append))
    assert [records[0].id for records in kept] == ["t-00000/1", "t-00002/1"]
    (error,) = dropped
    assert error.name.startswith("t-00001")
    assert error.reason.startswith(reason)


def test_files_become_records_and_files_again(images, tmp_path):
    (tmp_path / "steps").mkdir()
    rows = {"steps_train.jsonl": [ROW, TEXT_ROW, {"steps": [ret()]}], "steps_valid.jsonl": [TEXT_ROW]}
    for name, of_file in rows.items():
        (tmp_path / "steps" / name).write_text("".join(json.dumps(row) + "\n" for row in of_file))
    lines = convert.to_records(tmp_path / "steps", images, tmp_path / "records")
    assert split_names(tmp_path / "records") == ["train", "validation"]
    assert lines[0] == "train: 2 of 3 rows kept, 1 dropped"
    assert lines[1].startswith("  dropped: 1 x steps out of order")
    assert lines[1].endswith("(steps_train-00002)")
    assert lines[2:] == ["validation: 1 of 1 rows kept, 0 dropped", "10 steps: 6 ans, 4 ret"]
    assert len(open_split(tmp_path / "records", "train")) == 7

    assert convert.to_trajectories(tmp_path / "records", tmp_path / "back")[0] == "train: 2 of 2 rows kept, 0 dropped"
    back = [json.loads(line) for line in (tmp_path / "back" / "train.jsonl").read_text().splitlines()]
    assert [row["steps"] for row in back] == [ROW["steps"], TEXT_ROW["steps"]]
    (path,) = back[0]["images"]
    assert (tmp_path / "back" / path).read_bytes() == png("red")
    assert back[1]["images"] == []
    again = convert.to_records(tmp_path / "back", tmp_path / "back", tmp_path / "again")
    assert again[-1] == "10 steps: 6 ans, 4 ret"


def test_without_a_usable_trajectory_the_reasons_are_given(images, tmp_path):
    (tmp_path / "train.json").write_text(json.dumps([{"steps": [ret()]}]))
    with pytest.raises(ValueError, match="steps out of order"):
        convert.to_records(tmp_path / "train.json", images, tmp_path / "records")
    assert not (tmp_path / "records").exists()


def test_records_that_are_no_whole_trajectory_are_named(images):
    records = read(ROW, images)
    dropped = []
    kept = list(write_trajectories(records[1:], lambda image: "a.png", drop=dropped.append))
    assert kept == []
    assert str(dropped[0]).startswith("record 't-00000': expected records with ids NAME/1 to NAME/3, got 't-00000/2'")
