"""The embedded task: facts belong to one split, sub-questions find their documents, and habits are what was asked."""

import dataclasses

import numpy as np
import pytest

from r1vl_jax.data.digits.scans import load_scans
from r1vl_jax.data.records import open_split
from r1vl_jax.router.datasets import read_questions
from r1vl_jax.router.digits import task
from r1vl_jax.router.digits.facts import KINDS, SYMBOLS, draw_facts, draw_sign
from r1vl_jax.router.golds import ANSWER, RETRIEVAL, read_answer_golds, read_retrieval_gold
from r1vl_jax.router.protocol import Retrieval, parse_answer, parse_retrieval
from r1vl_jax.router.rewards import step_reward

SIZES = {
    "num_facts": 300,
    "warmup_questions": 120,
    "train_questions": 12,
    "eval_questions": 12,
    "vision_pretrain_records": 5,
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    out = tmp_path_factory.mktemp("task") / "task"
    task.write(out, **SIZES, habit=0.7)
    return out


def records(directory, split):
    return list(open_split(directory / "records", split))


def is_reading(record) -> bool:
    return record.kind == ANSWER and not record.problem.startswith("Final:")


def test_answers_are_in_the_first_document(directory):
    reading = [record for record in records(directory, "train") if is_reading(record)]
    assert len(reading) == 2 * sum(len(kind.lookups) for kind in KINDS)
    for record in reading:
        lines = record.problem.split("\n")
        assert read_answer_golds(record.answer)[0] in lines[0]
        assert len(lines) == 3 + 2  # documents, sub-question, picture


def test_the_warm_up_asks_the_code_book_out_of_habit(directory):
    routes = [record for record in records(directory, "warmup") if record.kind == RETRIEVAL]
    pairs = [(parse_retrieval(record.response), read_retrieval_gold(record.answer)) for record in routes]
    assert all(isinstance(step, Retrieval) and step.sub_question == gold.query for step, gold in pairs)
    others = [step.retriever for step, gold in pairs if gold.retriever and gold.retriever.kind != "text"]
    assert {retriever.kind for retriever in others} == {"text", "image", "table"}
    assert 0.55 < sum(retriever.kind == "text" for retriever in others) / len(others) < 0.85


def test_a_response_without_the_habit_earns_everything(directory):
    for record in records(directory, "warmup"):
        (earned,) = step_reward([record.response], kind=[record.kind], answer=[record.answer])
        if record.kind == ANSWER:
            assert parse_answer(record.response) in read_answer_golds(record.answer)
        assert earned == pytest.approx(1.0) or (record.kind == RETRIEVAL and earned == pytest.approx(0.5))


def test_splits_share_no_number(directory):
    asked = {
        split: {record.problem for record in records(directory, split) if is_reading(record)} for split in task.SPLITS
    }
    assert all(asked.values())
    assert sum(map(len, asked.values())) == len(set().union(*asked.values()))


def test_questions_name_what_answers_them(directory):
    questions = read_questions(directory / "questions" / "test.jsonl")
    assert [question.source for question in questions] == 2 * [kind.name for kind in KINDS]
    assert [len(question.retrievers) for question in questions[:6]] == [1, 1, 1, 2, 2, 3]
    assert all(question.image and len(question.golds) == 1 for question in questions)


def test_held_out_pictures_have_scans_of_their_own(monkeypatch, tmp_path):
    opened = []
    monkeypatch.setattr(task, "load_scans", lambda split: opened.append(split) or load_scans(split))
    task.write(tmp_path / "task", **SIZES)
    assert opened == ["train", "train", "validation", "test", "train"]  # of the splits, and single digits


def test_facts_are_unique():
    facts = draw_facts(4_000, np.random.default_rng(0))
    for name in ("number", "item", "shop"):
        assert len({getattr(each, name) for each in facts}) == len(facts)
    words = {each.item for each in facts} | {each.shop for each in facts}
    assert len(words) == 2 * len(facts)
    assert len({dataclasses.astuple(each) for each in facts}) == len(facts)


def test_signs_differ():
    assert len({draw_sign(symbol) for symbol in SYMBOLS}) == len(SYMBOLS)


def test_an_existing_directory_is_left_alone(directory):
    before = sorted(path.stat().st_mtime_ns for path in directory.rglob("*"))
    task.write(directory, **SIZES)
    assert sorted(path.stat().st_mtime_ns for path in directory.rglob("*")) == before
