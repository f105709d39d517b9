"""Files become records once, in splits that are named or held out, with an account of every row."""

import pytest

from r1vl_jax.data.records import open_split, split_names
from r1vl_jax.data.sources import prepare as prepare_module
from r1vl_jax.data.sources.preparation import Preparation
from r1vl_jax.data.sources.prepare import prepare


def rows(num_rows: int, **changes):
    return [{"problem": f"Is it {n}?", "image": "pictures/a.png", "answer": n} | changes for n in range(num_rows)]


@pytest.fixture
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def ids(directory, split):
    return [record.id for record in open_split(directory, split)]


def test_a_file_becomes_training_records_with_its_pictures(write_json, cache, png):
    prepared = prepare(Preparation(str(write_json("rows.json", rows(3)))), cache)
    records = list(open_split(prepared.directory, "train"))
    assert [(r.id, r.problem, r.answer, r.images) for r in records] == [
        (f"rows/train/{n}", f"<image>Is it {n}?", str(n), (png,)) for n in range(3)
    ]
    assert prepared.summary == (
        "train: layout thinklite",
        "train: 3 of 3 rows kept, 0 dropped",
        "  <image> was put first: 3 records",
        "  no key steps: 3 records",
    )


def test_each_dropped_row_is_counted_by_its_reason_and_named(write_json, cache, root):
    (root / "pictures" / "bad.png").write_text("no picture")
    data = [
        *rows(2),
        *rows(3, image="pictures/b.png"),
        *rows(1, image="https://example.com/a.png"),
        *rows(1, answer=None),
        *rows(1, image="pictures/bad.png"),
    ]
    prepared = prepare(Preparation(str(write_json("rows.json", data))), cache)
    account = "\n".join(prepared.summary)
    assert "train: 2 of 8 rows kept, 6 dropped" in account
    assert "dropped: 3 x picture 'pictures/b.png' cannot be read below data.images=" in account
    assert "dropped: 1 x a picture is a URL, 'https://example.com/a.png'; download it" in account
    assert "dropped: 1 x it has no answer, and no response to train on (rows/train/6)" in account
    assert "dropped: 1 x image 1 (10 bytes) is unreadable: cannot identify image file" in account
    assert "no key steps: 2 records" in account
    names = [line.split(": ")[0] for line in (prepared.directory / "dropped.txt").read_text().splitlines()]
    assert sorted(names) == [f"train rows/train/{n}" for n in range(2, 8)]


def test_splits_are_those_of_the_files_each_in_its_layout(write_json, root, cache):
    write_json(
        "data/warmup.json", [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "4"}]}]
    )
    write_json("data/train.json", rows(4))
    write_json("data/test.json", rows(2))
    prepared = prepare(Preparation(str(root / "data"), images=str(root)), cache)
    assert split_names(prepared.directory) == ["test", "train", "warmup"]
    assert ids(prepared.directory, "test") == ["data/test/0", "data/test/1"]
    assert prepared.summary[:3] == ("warmup: layout messages", "train: layout thinklite", "test: layout thinklite")


def test_held_out_records_are_a_share_or_a_number_by_their_own_seed(write_json, cache):
    path = str(write_json("rows.json", rows(20)))
    first = prepare(Preparation(path, validation_size=0.1, test_size=3), cache).directory
    parts = {split: ids(first, split) for split in split_names(first)}
    assert {split: len(part) for split, part in parts.items()} == {"test": 3, "train": 15, "validation": 2}
    assert sorted(sum(parts.values(), [])) == sorted(f"rows/train/{n}" for n in range(20))
    other = prepare(Preparation(path, validation_size=0.1, test_size=3, split_seed=1), cache).directory
    assert other != first
    assert set(ids(other, "test")) != set(parts["test"])


def test_data_are_prepared_once_unless_files_or_settings_change(write_json, cache, monkeypatch, root):
    path = write_json("rows.json", rows(2))
    written = []
    write = prepare_module.write_splits
    monkeypatch.setattr(prepare_module, "write_splits", lambda d, *a, **k: written.append(d) or write(d, *a, **k))
    first = prepare(Preparation(str(path)), cache)
    assert prepare(Preparation(str(path)), cache) == first
    moved = root / "moved"
    moved.mkdir()
    path.rename(moved / "rows.json")
    assert prepare(Preparation(str(moved / "rows.json"), images=str(root)), cache).directory == first.directory
    assert len(written) == 1
    prepare(Preparation(str(write_json("rows.json", rows(3)))), cache)
    prepare(Preparation(str(path), columns="answer=answer"), cache)
    assert len(set(written)) == 3


def test_ids_that_occur_twice_get_the_number_of_their_row(write_json, cache):
    prepared = prepare(Preparation(str(write_json("rows.json", rows(2, id=7)))), cache)
    assert ids(prepared.directory, "train") == ["7", "7#1"]
    assert "  an id of two rows: #ROW was added: 1 records" in prepared.summary


def test_an_id_with_a_number_behind_it_may_be_in_the_data_already(write_json, cache):
    data = [*rows(1, id="x"), *rows(1, id="x#2"), *rows(1, id="x"), *rows(1, id="x#2"), *rows(1, id="x")]
    prepared = prepare(Preparation(str(write_json("rows.json", data))), cache)
    assert ids(prepared.directory, "train") == ["x", "x#2", "x#2#2", "x#2#3", "x#4"]


def test_half_a_surrogate_pair_drops_its_row_by_place_and_reason(write_json, cache):
    data = [*rows(1), *rows(1, id="\ud800"), *rows(1, answer="\ud800"), *rows(1, problem="\ud800", id="q")]
    prepared = prepare(Preparation(str(write_json("rows.json", data))), cache)
    assert ids(prepared.directory, "train") == ["rows/train/0"]
    reason = r"expected text that UTF-8 can write, got '\ud800', half of a surrogate pair"
    lines = [line.partition(reason)[0] for line in (prepared.directory / "dropped.txt").read_text().splitlines()]
    assert sorted(lines) == [
        "train q: field 'problem': ",
        "train rows/train/1: field 'id': ",
        "train rows/train/2: field 'answer': ",
    ]


def test_records_and_their_account_appear_together(write_json, cache, monkeypatch):
    """Whatever ends the preparation between them, the next start prepares again."""
    preparation = Preparation(str(write_json("rows.json", rows(2))))
    with monkeypatch.context() as broken:
        broken.setattr(prepare_module.Account, "lines", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(preparation, cache)
    assert [path for path in cache.iterdir() if path.is_dir()] == []
    first = prepare(preparation, cache)
    (first.directory / "summary.json").unlink()
    again = prepare(preparation, cache)
    assert again == first
    assert again.summary[1] == "train: 2 of 2 rows kept, 0 dropped"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layout": "foo"}, "data.layout='foo': expected one of \\('', 'mulberry', "),
        ({"columns": "answr=a"}, "data.columns='answr=a': expected FIELD=COLUMN, .* got 'answr=a'"),
        ({"key_steps": "all"}, "data.key_steps='all': expected one of"),
        ({"test_size": 1.5}, "data.test_size=1.5: expected a share below 1"),
        ({"max_frames": 1}, "data.max_frames=1: expected at least 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_settings_that_training_refuses_are_refused_here_too(settings, message):
    with pytest.raises(ValueError, match=message):
        Preparation("rows.json", **settings)


def test_rows_without_key_steps_get_those_of_their_solution(write_json, cache):
    data = [
        *rows(1, answer="53", solution="8 * 6 = 48, and then 48 + 5 = 53."),
        *rows(1, answer="53", response="### Step 1:\n48 + 5 = 53\n\n### The final answer is:\n53"),
        *rows(1, answer="B", choices=["50", "53"], solution="48 + 5 = 53\n#### B"),
        *rows(1, answer="53", solution="8 * 6 = 48\n#### 54"),  # of a wrong answer
        *rows(1, problem="Is 48 + 5 = 53?", answer="yes", solution="48 + 5 = 53\n#### yes"),
        *rows(1, answer="53", solution="48 + 5 = 53\n#### 53", key_steps=[["53 is 48 + 5"]]),
        *rows(1, answer="53"),
    ]
    path = str(write_json("rows.json", data))
    prepared = prepare(Preparation(path), cache)
    steps = [[group[0] for group in record.key_steps] for record in open_split(prepared.directory, "train")]
    assert steps == [["8 * 6 = 48", "48 + 5 = 53"], ["48 + 5 = 53"], ["48 + 5 = 53"], [], [], ["53 is 48 + 5"], []]
    assert {"  key steps by rule: 3 records", "  no key steps: 3 records"} <= {*prepared.summary}
    without = prepare(Preparation(path, key_steps="none"), cache)
    assert [len(record.key_steps) for record in open_split(without.directory, "train")] == [0, 0, 0, 0, 0, 1, 0]
    assert "  no key steps: 6 records" in without.summary


def test_empty_key_steps_are_left_out_with_a_note(write_json, cache):
    data = [
        *rows(1, key_steps=[["1+1=2", ""], [], [" "]]),
        *rows(1, key_steps='{"Steps": [[""]]}', solution="48 + 5 = 53."),
        *rows(1, key_steps=[["1+1=2"]]),
        *rows(1, key_steps={"Step 1": ["1+1=2"]}),
        *rows(1, key_steps=None),
        *rows(1, key_steps={"Steps": None}),
    ]
    prepared = prepare(Preparation(str(write_json("rows.json", data))), cache)
    steps = [[group[0] for group in record.key_steps] for record in open_split(prepared.directory, "train")]
    assert steps == [["1+1=2"], ["48 + 5 = 53"], ["1+1=2"], [], []]
    notes = {"  empty key steps left out: 2 records", "  key steps by rule: 1 records", "  no key steps: 2 records"}
    assert notes <= {*prepared.summary}
    assert any("field 'key_steps': expected a list of groups, got {'Step 1'" in line for line in prepared.summary)


@pytest.mark.parametrize(
    ("name", "data", "settings", "message"),
    [
        ("rows.json", rows(2, image="b.png"), {}, "none of their records is valid.*\n  train: 2 x picture 'b.png'"),
        ("rows.json", [{"text": "Q"}], {}, "rows.json: the columns text fit no layout"),
        ("rows.json", [], {}, "rows.json: it has no rows"),
        ("rows.json", rows(2), {"test_size": 2}, "data.test_size=2 holds 2 of 2 records out"),
        ("test.json", rows(2), {"test_size": 1}, "data.test_size=1: .*test.json has files of test; unset it"),
        ("test.json", rows(2), {"validation_size": 1}, "data.validation_size: .* has no training records to hold out"),
    ],
)
def test_what_gives_no_records_is_refused(write_json, cache, name, data, settings, message):
    with pytest.raises(ValueError, match=message):
        prepare(Preparation(str(write_json(name, data)), **settings), cache)
    assert [path for path in cache.iterdir() if path.is_dir()] == []
