"""Splits of the embedded task: sizes, contents, disjointness, determinism and digit recognition."""

import collections

import pytest

from r1vl_jax.data.digits import task
from r1vl_jax.data.digits.puzzles import OPENINGS, digits_in_description
from r1vl_jax.data.digits.task import recognized_digits
from r1vl_jax.data.images import load_image_processor
from r1vl_jax.data.pipeline import Encoder
from r1vl_jax.data.processor import Processor
from r1vl_jax.data.records import open_split
from r1vl_jax.data.tokenizer import train_tokenizer

SETTINGS = {"difficulty": 3, "warmup_records": 100, "train_records": 100, "eval_records": 50, "seed": 0}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "data"
    task.write(directory, **SETTINGS)
    return directory


@pytest.fixture(scope="module")
def splits(directory):
    return {name: list(open_split(directory, name)) for name in ("warmup", "train", "validation", "test")}


def test_kinds_are_balanced(splits):
    assert [len(records) for records in splits.values()] == [100, 100, 50, 50]
    for records in splits.values():
        assert len(set(collections.Counter(record.kind for record in records).values())) == 1


def test_only_the_warmup_has_responses(splits):
    openings = collections.Counter()
    for record in splits["warmup"]:
        (opening,) = [o for o in OPENINGS if record.response == record.solution.replace("ales:\n", f"ales:\n{o}")]
        openings[opening] += 1
    assert min(openings[opening] for opening in OPENINGS) > 20
    for record in splits["train"]:
        assert record.response == ""
        assert "###" not in record.solution
    assert all("### Step 1:" in record.solution and not record.response for record in splits["test"])


def test_a_fraction_of_the_warmup_takes_the_shortcut(tmp_path):
    sizes = {"warmup_records": 200, "train_records": 5, "eval_records": 5}
    task.write(tmp_path / "data", difficulty=2, shortcut_fraction=0.6, **sizes, seed=0)
    is_shortcut = ["result=" in record.response for record in open_split(tmp_path / "data", "warmup")]
    assert 100 < sum(is_shortcut) < 140
    assert not any("result=" in record.solution for record in open_split(tmp_path / "data", "test"))


def test_responses_of_vision_pretraining_are_the_digit_alone(tmp_path):
    sizes = {"vision_pretrain_records": 30, "warmup_records": 5, "train_records": 5, "eval_records": 5}
    task.write(tmp_path / "data", difficulty=1, **sizes, seed=0)
    for record in open_split(tmp_path / "data", "vision_pretrain"):
        assert record.response == f"### Image Description:\n{record.answer}"
        assert digits_in_description(record.response) == record.answer


def test_problems_of_the_splits_are_disjoint(tmp_path):
    """By picture and question; there are few problems with two digits, so an overlap would show."""
    sizes = {"warmup_records": 200, "train_records": 5, "eval_records": 100}
    task.write(tmp_path / "data", difficulty=1, **sizes, seed=0)
    names = ("warmup", "validation", "test")
    problems = [
        {(record.problem, record.solution.split("\n")[1]) for record in open_split(tmp_path / "data", name)}
        for name in names
    ]
    assert len(set.union(*problems)) == sum(map(len, problems))


def test_problems_of_a_split_are_distinct(splits):
    problems = {(record.problem, record.solution) for record in splits["warmup"]}
    assert len(problems) == 100


def test_records_fit_the_tiny_recipe(splits):
    tokenizer = train_tokenizer(task.texts(splits["warmup"]))
    processor = Processor(tokenizer, load_image_processor(min_pixels=28 * 28, max_pixels=400_000))
    encoder = Encoder(processor, max_prompt_length=64, prompt_bucket=64, patch_bucket=512)
    for record in splits["warmup"]:
        encoder.prompt(record)
        assert 35 <= len(encoder.completion(record, max_completion_length=96)) <= 72


def test_data_are_written_once_and_deterministically(directory, tmp_path):
    before = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    task.write(directory, **SETTINGS)
    assert {path.name: path.stat().st_mtime_ns for path in directory.iterdir()} == before
    task.write(tmp_path / "data", **SETTINGS)
    for path in directory.glob("*array_record*"):
        assert path.read_bytes() == (tmp_path / "data" / path.name).read_bytes()


def test_data_of_other_settings_are_refused(directory):
    with pytest.raises(
        ValueError, match=r"other settings \(difficulty=3, expected 2; seed=0, expected 1\); name another"
    ):
        task.write(directory, **{**SETTINGS, "difficulty": 2, "seed": 1})


def test_recognized_digits_compares_by_position(splits, make_record):
    record = make_record(solution="### Image Description:\n12 + 3 x 4\n\n### Rationales:\nMultiply first.")
    assert recognized_digits(record.solution, record) == (4, 4)
    assert recognized_digits("### Image Description:\n12 + 8 x 4\n\n### Step 1:\n3", record) == (3, 4)
    assert recognized_digits("### Image Description:\n1", record) == (1, 4)
    assert recognized_digits("### Image Description:\n512 + 3 x 4 + 7", record) == (0, 4)
    assert recognized_digits("gibberish 1234", record) == (0, 4)
    for kept in splits["test"]:
        right, total = recognized_digits(kept.solution, kept)
        assert right == total > 0


def test_progress_is_shown_on_request(tmp_path, capsys):
    sizes = {"vision_pretrain_records": 5, "warmup_records": 5, "train_records": 5, "eval_records": 5}
    task.write(tmp_path / "quiet", difficulty=1, **sizes, seed=0)
    assert capsys.readouterr().out == ""
    task.write(tmp_path / "shown", difficulty=1, **sizes, seed=0, show_progress=True)
    shown = capsys.readouterr().out
    for split in ("vision_pretrain", "warmup", "train", "validation", "test"):
        assert f"writing {split}" in shown
        assert list(open_split(tmp_path / "shown", split)) == list(open_split(tmp_path / "quiet", split))
