"""Steps of a trajectory as records: prompts with the gold prefix, and what each should be answered with."""

import io
import json

import pytest
from PIL import Image

from r1vl_jax.router.prompts import load_wording
from r1vl_jax.router.protocol import write_answer, write_retrieval
from r1vl_jax.router.steps import Lookup, Trajectory, step_records

TEXT, TABLE = "Text Retriever", "Table Retriever"
LOOKUPS = (
    Lookup("Who wrote it?", TEXT, ("ter-1: By Verne.",), "Verne", write_retrieval("a", "Who wrote it?", TABLE), "r1"),
    Lookup("When was Verne born?", TABLE, ("tar-1: born: 1828",), "1828", "", ""),
)


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (56, 28)).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture
def records():
    trajectory = Trajectory(
        "q7", "How old?", picture(), ("77", "seventy-seven"), LOOKUPS, "age", "s", write_answer("b", "77")
    )
    return list(step_records(trajectory, load_wording("short"), source="books"))


def test_each_step_is_a_record(records):
    assert [record.id for record in records] == [f"q7/{number}" for number in range(1, 7)]
    assert [record.kind for record in records] == ["ret", "ans", "ret", "ans", "ret", "ans"]
    assert {(len(record.images), record.source) for record in records} == {(1, "books")}


def test_the_prefix_is_the_trajectory(records):
    assert records[0].problem == "Route: How old?\n<image>"
    assert records[1].problem == "ter-1: By Verne.\nWho wrote it?\n<image>"
    assert records[2].problem == "Route: How old?\n1. Who wrote it? Verne\n<image>"
    assert records[5].problem == "Final: How old?\n1. Who wrote it? Verne\n2. When was Verne born? 1828\n<image>"


def test_what_is_right_and_what_is_imitated_may_differ(records):
    assert json.loads(records[0].answer) == {"query": "Who wrote it?", "retriever": [TEXT]}
    assert f"<ret>{TABLE}</ret>" in records[0].response
    assert json.loads(records[4].answer) == {"query": "None", "retriever": ["None"]}
    assert json.loads(records[5].answer) == ["77", "seventy-seven"]
    assert [record.response for record in records[1:]] == ["r1", "", "", "s", write_answer("b", "77")]
