"""Cells of videos: lists and directories of frames, and files, sampled at two frames a second."""

import io
import sys
from pathlib import Path

import pytest
from helpers.films import write_film
from PIL import Image

from r1vl_jax.data.pictures import open_picture
from r1vl_jax.data.records import invalid_reason, open_split
from r1vl_jax.data.sources.preparation import Preparation
from r1vl_jax.data.sources.prepare import prepare
from r1vl_jax.data.sources.rows import RowReader
from r1vl_jax.data.sources.videos import list_videos, read_video


def frame(value: int) -> bytes:
    Image.new("RGB", (28, 28), (value,) * 3).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def brightness(encoded: bytes) -> int:
    red, _, _ = open_picture(encoded, name="a frame").getpixel((14, 14))
    return red


@pytest.fixture
def frames(root: Path) -> list[bytes]:
    """A directory `clip` of twelve frames, frame1.png to frame12.png, and a file that is no frame."""
    frames = [frame(20 * number) for number in range(12)]
    (root / "clip").mkdir()
    (root / "clip" / "about.txt").write_text("twelve frames")
    for number, content in enumerate(frames, start=1):
        (root / "clip" / f"frame{number}.png").write_bytes(content)
    return frames


@pytest.fixture
def film(root: Path) -> Path:
    """A video file of 4 s at 10 frames a second, whose frames become brighter by 6 each."""
    return write_film(root / "film.mp4", num_frames=40, rate=10, step=6, size=(56, 28))


PATHS = [f"clip/frame{number}.png" for number in range(1, 13)]


@pytest.mark.parametrize(
    "cell",
    ["clip", "./clip", PATHS, {"video": PATHS}, {"type": "video", "video": "clip"}],
    ids=["directory", "dots", "list", "object", "part of a turn"],
)
def test_frames_are_read_in_order(root, frames, cell):
    assert read_video(cell, root, max_frames=12) == (tuple(frames), 2.0)
    assert read_video(cell, root, max_frames=12, fps=24) == (tuple(frames), 24)


def test_of_too_many_frames_some_are_taken_at_equal_distances(root, frames):
    assert read_video(frames, root, max_frames=4, fps=6) == ((frames[0], frames[3], frames[6], frames[9]), 2.0)
    assert read_video({"video": frames, "fps": 3.0}, root, max_frames=6)[1] == 1.5


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (None, []),
        ([], []),
        ("a.mp4", ["a.mp4"]),
        (["a.mp4", "clips/b"], ["a.mp4", "clips/b"]),
        (["a.png", "b.png"], [["a.png", "b.png"]]),
        ('["a.png", "b.png"]', [["a.png", "b.png"]]),
        ("['a.mp4', 'clips/b']", ["a.mp4", "clips/b"]),
        ([b"a", b"b"], [[b"a", b"b"]]),
        ([{"bytes": b"a", "path": None}, {"path": "b.png"}], [[{"bytes": b"a", "path": None}, {"path": "b.png"}]]),
        ([["a.png"], ["b.png", "c.png"]], [["a.png"], ["b.png", "c.png"]]),
        ([{"path": "a.mp4", "bytes": None}], [{"path": "a.mp4", "bytes": None}]),
        ([{"video": ["a.png"], "fps": 1}], [{"video": ["a.png"], "fps": 1}]),
        (["data:image/png;base64,AAAA"], [["data:image/png;base64,AAAA"]]),
        (["A" * 300], [["A" * 300]]),
    ],
    ids=repr,
)
def test_a_cell_holds_one_video_several_or_none(cell, expected):
    assert list_videos(cell) == expected


def test_a_file_is_sampled_at_two_frames_a_second(root, film):
    sampled, fps = read_video("film.mp4", root, max_frames=32)
    assert fps == 2.0
    assert [brightness(each) for each in sampled] == pytest.approx([0, 30, 60, 90, 120, 150, 180, 210], abs=6)
    assert read_video({"bytes": film.read_bytes(), "path": None}, root, max_frames=32) == (sampled, fps)
    few, slower = read_video("film.mp4", root, max_frames=4)
    assert slower == 1.0
    assert [brightness(each) for each in few] == pytest.approx([0, 60, 120, 180], abs=6)


def test_a_slow_file_keeps_its_own_rate(root):
    write_film(root / "slow.mp4", num_frames=3, rate=1, step=80, size=(28, 28))
    sampled, fps = read_video("slow.mp4", root, max_frames=32)
    assert (len(sampled), fps) == (3, 1.0)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("../film.mp4", "video '../film.mp4' leads out of data.images="),
        ("https://example.com/a.mp4", "a video is a URL, 'https://example.com/a.mp4'; download it"),
        ("pictures", None),
        ("nothing.mp4", "video 'nothing.mp4' cannot be read .*No such file"),
        ({"width": 3}, r"a video: expected one of video, .* got the keys \['width'\]"),
        (7, "a video: expected a file, a directory of frames or a list of them, got 7"),
        (["clip.txt"], "picture 'clip.txt' cannot be read"),
        ({"video": ["pictures/a.png"], "fps": 0}, "expected fps as a number of frames a second above 0, got 0"),
    ],
    ids=repr,
)
def test_what_is_no_video_is_refused_by_name(root, cell, message):
    if message is None:
        assert len(read_video(cell, root, max_frames=2)[0]) == 1
        return
    if "nothing" in str(cell):
        pytest.importorskip("av")
    with pytest.raises(ValueError, match=message):
        read_video(cell, root, max_frames=2)


def test_a_file_that_is_no_video_is_refused_by_name(root):
    pytest.importorskip("av")
    (root / "junk.mp4").write_bytes(b"junk" * 100)
    with pytest.raises(ValueError, match="video 'junk.mp4' cannot be read .*Invalid data"):
        read_video("junk.mp4", root, max_frames=2)
    (root / "empty").mkdir()
    with pytest.raises(ValueError, match="the directory 'empty' has no pictures"):
        read_video("empty", root, max_frames=2)


def test_without_pyav_the_preparation_ends_and_says_what_to_install(root, write_json, monkeypatch):
    """A preparation that left the videos out would be found again after PyAV is installed."""
    monkeypatch.setitem(sys.modules, "av", None)
    rows = [{"problem": "What?", "answer": "2", "video": "film.mp4"}, {"problem": "What?", "answer": "2"}]
    source = write_json("rows.json", rows)
    with pytest.raises(ValueError, match=r"rows.json: video 'film.mp4' is a file, which PyAV decodes: pip install av"):
        prepare(Preparation(str(source)), root / "cache")


ROWS = [
    ("sharegpt", {"conversations": [{"from": "human", "value": "<video>What?"}, {"from": "gpt", "value": "2"}]}),
    ("messages", {"messages": [{"role": "user", "content": "<video>What?"}, {"role": "assistant", "content": "2"}]}),
    ("alpaca", {"instruction": "What?", "output": "2"}),
    ("problem", {"problem": "What?", "answer": "2"}),
]


@pytest.mark.parametrize(("layout", "row"), ROWS, ids=[name for name, _ in ROWS])
def test_every_layout_has_videos_in_a_column(root, frames, layout, row):
    reader = RowReader(layout, {}, root, "rows", max_frames=12)
    record, _ = reader.read(row | {"videos": ["clip"], "fps": 4}, split="train", number=0)
    assert (record.videos, record.fps, record.problem) == ((tuple(frames),), (4,), "<video>What?")
    assert invalid_reason(record) is None


def test_videos_within_turns_stand_in_their_places(root, frames):
    part = {"type": "video", "video": ["clip/frame2.png", "clip/frame3.png"], "fps": 1}
    content = [{"type": "text", "text": "Is "}, part, {"type": "text", "text": " like "}]
    content += [{"type": "image", "image": "pictures/a.png"}, {"type": "video_url", "video_url": {"url": "clip"}}]
    row = {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "no"}]}
    record, notes = RowReader("messages", {}, root, "rows", max_frames=3).read(row, split="train", number=0)
    assert record.problem == "Is <video> like <image><video>"
    assert record.videos == ((frames[1], frames[2]), (frames[0], frames[4], frames[8]))
    assert record.fps == (1, 0.5)
    assert "no image" not in notes


def test_videos_are_kept_with_their_rates(root, film, write_json):
    rows = [{"problem": "<video 2>, then <video 1>?", "answer": "2", "videos": ["film.mp4", ["pictures/a.png"]]}]
    prepared = prepare(Preparation(str(write_json("rows.json", rows)), max_frames=4), root / "cache")
    (record,) = open_split(prepared.directory, "train")
    assert (record.problem, record.fps) == ("<video>, then <video>?", (2.0, 1.0))
    assert [len(each) for each in record.videos] == [1, 4]
