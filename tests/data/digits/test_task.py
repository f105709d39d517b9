"""Splits of the embedded task: sizes, contents, disjointness, determinism and digit recognition."""

import collections

import pytest

from r1vl_jax.data.digits import task
from r1vl_jax.data.digits.puzzles import digits_in_description
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
    return {name: list(open_split(directory, name)) for name in task.SPLITS}


def test_half_of_what_is_held_out_is_hard_and_all_that_step_grpo_sees(splits):
    counts = {name: collections.Counter(record.kind for record in records) for name, records in splits.items()}
    assert counts["warmup"] == {"by_23_stepwise": 50, "by_13": 25, "by_23": 25}
    assert counts["train"] == {"by_23": 100}
    for name in ("validation", "test"):
        assert counts[name]["by_23"] == 25
        assert 12 <= counts[name]["by_13"] <= 13 >= counts[name]["by_23_stepwise"] >= 12


def test_only_the_warmup_has_responses(splits):
    assert all(record.response == record.solution for record in splits["warmup"])
    for record in splits["train"]:
        assert record.response == ""
        assert "###" not in record.solution
    assert all("### Step 1:" in record.solution and not record.response for record in splits["test"])


def test_hard_responses_of_the_warmup_jump_at_each_step_with_the_probability(tmp_path):
    sizes = {"warmup_records": 2_000, "train_records": 1, "eval_records": 4}
    task.write(tmp_path / "data", difficulty=2, shortcut_probability=0.6, **sizes, seed=0)
    jumped = collections.Counter()
    for record in open_split(tmp_path / "data", "warmup"):
        num_steps = record.response.count("### Step")
        if record.kind == "by_23":
            jumped[num_steps if "remainder=" in record.response else "never"] += 1
        else:
            assert record.response == record.solution
    assert 0.55 < jumped[1] / 500 < 0.65
    assert 0.2 < jumped[2] / 500 < 0.28
    assert 0.02 < jumped["never"] / 500 < 0.09  # of three or four steps: 0.4 ** 3 and 0.4 ** 4
    assert not any("remainder=" in record.solution for record in open_split(tmp_path / "data", "test"))


def test_responses_of_vision_pretraining_are_the_digit_alone(tmp_path):
    sizes = {"vision_pretrain_records": 30, "warmup_records": 5, "train_records": 5, "eval_records": 5}
    task.write(tmp_path / "data", difficulty=1, **sizes, seed=0)
    for record in open_split(tmp_path / "data", "vision_pretrain"):
        assert record.response == f"### Image Description:\n{record.answer}"
        assert digits_in_description(record.response) == record.answer


@pytest.mark.parametrize("difficulty", [1, 3])
def test_problems_of_the_splits_are_disjoint(tmp_path, difficulty):
    """By number and divisor: what StepGRPO trains on, the warm-up has not shown in any wording."""
    sizes = {"warmup_records": 2_000, "train_records": 100, "eval_records": 100}
    task.write(tmp_path / "data", difficulty=difficulty, **sizes, seed=0)
    problems = [
        {(record.kind[:5], digits(record)) for record in open_split(tmp_path / "data", name)} for name in task.SPLITS
    ]
    assert len(set.union(*problems)) == sum(map(len, problems))
    assert all(len(each) >= 50 for each in problems)


def digits(record) -> str:
    """Of the picture, by the key steps: records of StepGRPO have no description."""
    divisions = [int(group[0].split("-")[0]) for group in record.key_steps]
    return str(divisions[0]) + "".join(str(number % 10) for number in divisions[1:])


def test_hard_problems_of_a_split_are_distinct(splits):
    for records in splits.values():
        hard = [digits(record) for record in records if record.kind == "by_23"]
        assert len(set(hard)) == len(hard)


@pytest.fixture(scope="module")
def tokenizer(splits):
    return train_tokenizer(task.texts(splits["warmup"]))


def test_every_digit_and_sign_is_a_token(splits, tokenizer):
    for record in splits["warmup"]:
        steps = [spellings[0] for spellings in record.key_steps]
        assert [tokenizer.tokenize(step) for step in steps] == [list(step) for step in steps]


def test_records_fit_the_tiny_recipe(splits, tokenizer):
    processor = Processor(tokenizer, load_image_processor(min_pixels=28 * 28, max_pixels=400_000))
    encoder = Encoder(processor, max_prompt_length=64, prompt_bucket=64, patch_bucket=512)
    for record in splits["warmup"]:
        encoder.prompt(record)
        assert 35 <= len(encoder.completion(record, max_completion_length=128)) <= 112


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
