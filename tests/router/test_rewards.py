"""The step rewards of R1-Router, every branch against cases by hand; the encoder is a table of vectors."""

import json

import numpy as np
import pytest

from r1vl_jax.rewards import custom
from r1vl_jax.router import rewards

QUERY = "who wrote it?"
# Unit vectors at angles whose cosines with the gold's are 1, 0.6 and -0.8.
VECTORS = {QUERY: (1.0, 0.0), "who made it?": (0.6, 0.8), "no!": (-0.8, 0.6), "none": (0.0, 1.0)}


class Table:
    """An encoder of the texts in `VECTORS`; keeps what it is asked."""

    def __init__(self):
        self.asked = []

    def encode(self, texts):
        self.asked.append(list(texts))
        return np.array([VECTORS[text] for text in texts], np.float32)


@pytest.fixture
def table(monkeypatch):
    encoder = Table()
    monkeypatch.setattr(rewards, "load_encoder", {"table": encoder}.__getitem__)
    return encoder


def retrieval(sub_question, retriever):
    return f"<think>.</think><sub-question>{sub_question}</sub-question><ret>{retriever}</ret>"


def answer(text):
    return f"<think>.</think><answer>{text}</answer>"


def reward(completion, gold, kind):
    return rewards.StepReward("table")([completion], kind=[kind], answer=[json.dumps(gold)])[0]


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (retrieval("Who wrote it?", "Text Retriever"), 1.0),
        (retrieval("WHO WROTE IT?", "text retriever"), 1.0),
        (retrieval("Who made it?", "Text Retriever"), 0.8),
        (retrieval("Who made it?", "Table Retriever"), 0.3),
        (retrieval("No!", "Text Retriever"), 0.1),
        (retrieval("No!", "Text Image Retriever"), -0.4),  # the cosine may be negative
        (retrieval("No!", "None"), -0.4),  # None is one of the four
        (retrieval("None", "Text Retriever"), 0.5),
        (retrieval("None", "None"), 0.0),  # orthogonal, and not the gold's retriever
        (retrieval("Who wrote it?", "Text Retriever, Table Retriever"), 0.0),
        (retrieval("Who wrote it?", "None, Text Retriever"), 0.0),
        (retrieval("Who wrote it?", "Encyclopaedia"), 0.0),
        (retrieval("Who wrote it?", "Text Retriever").replace("<think>", ""), 0.0),
        (retrieval("Who wrote it?", "Text Retriever").replace("</sub-question>", ""), 0.0),
        (retrieval("Who wrote it?", "Text Retriever").replace("<ret>", ""), 0.0),
        (retrieval("", "Text Retriever"), 0.0),
        (answer("Verne"), 0.0),
        ("", 0.0),
    ],
)
def test_a_retrieval_earns_half_for_its_question_and_half_for_its_retriever(table, completion, expected):
    gold = {"query": "Who wrote it?", "retriever": ["text retriever", "table retriever"]}
    assert reward(completion, gold, "ret") == pytest.approx(expected, abs=1e-6)


def test_ending_the_search_in_time_earns_1(table):
    gold = {"query": "none", "retriever": ["none"]}
    assert reward(retrieval("None", "None"), gold, "ret") == pytest.approx(1.0)
    assert reward(retrieval("Who wrote it?", "Text Retriever"), gold, "ret") == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("text", "golds", "expected"),
    [
        ("Jules Verne", "Jules Verne", 1.0),
        ("the french Jules Verne!", "Jules Verne", 1.0),  # recall, not F1
        ("Verne", "Jules Verne", 0.0),  # short and alone: all or nothing
        ("Verne", ["Jules Verne"], 0.0),  # a list of one is a single one
        ("one two three four", "one two three four five", 0.0),  # five words are short
        ("one two three", "one two three four five six", 0.5),  # six are long: the recall itself
        ("one two three", ["one two three four five six"], 0.5),
        ("nothing", "one two three four five six", 0.0),
        ("one two three", ["one two three four five six", "seven"], 0.0),  # several: all or nothing
        ("seven", ["one two three four five six", "seven"], 1.0),
        # F1 of the first gold is 2/2, and only its recall counts.
        ("x y", ["x y", "x"], 1.0),
        # "x y z" is nearer to "x y z w" (F1 6/7) than to "x" (F1 1/2), and has only 3/4 of it.
        ("x y z", ["x", "x y z w"], 0.0),
    ],
)
def test_an_answer_earns_the_recall_of_the_best_gold(table, text, golds, expected):
    assert reward(answer(text), golds, "ans") == pytest.approx(expected)


@pytest.mark.parametrize(
    "completion", ["Jules Verne", "<answer>Jules Verne</answer>", answer(""), "<think>.</think><answer>Jules Verne"]
)
def test_a_malformed_answer_earns_nothing(table, completion):
    assert reward(completion, "Jules Verne", "ans") == 0.0


def test_of_several_answers_the_last_is_graded(table):
    assert reward(answer("Jules Verne") + "<answer>Hugo</answer>", "Jules Verne", "ans") == 0.0


def test_records_of_other_kinds_are_not_graded(table):
    assert rewards.StepReward("table")(["7"], kind=["sum"], answer=["not JSON"]) == [None]


def test_a_batch_is_graded_row_by_row_and_embedded_once(table):
    gold = json.dumps({"query": "Who wrote it?", "retriever": "Text Retriever"})
    completions = [
        retrieval("Who made it?", "Text Retriever"),
        answer("Verne"),
        retrieval("Who made it?", "Table Retriever"),
        "",
        "7",
        retrieval("No!", "Text Retriever"),
    ]
    kinds = ["ret", "ans", "ret", "ret", "sum", "ret"]
    got = rewards.StepReward("table")(
        completions, kind=kinds, answer=[gold, '"Verne"', gold, gold, "7", gold], id=list("abcdef"), problem=[""] * 6
    )
    assert got[4] is None
    assert [value for value in got if value is not None] == pytest.approx([0.8, 1.0, 0.3, 0.0, 0.1], abs=1e-6)
    assert [sorted(texts) for texts in table.asked] == [sorted(["who made it?", QUERY, "no!"])]


def test_answers_alone_need_no_encoder(table):
    reward(answer("Verne"), "Verne", "ans")
    assert table.asked == []


@pytest.mark.parametrize(
    ("columns", "name"), [({"id": ["r1", "r2"]}, "record r2"), ({}, "record in row 1 of the batch")]
)
def test_an_unreadable_gold_names_its_record(table, columns, name):
    with pytest.raises(ValueError, match=rf"{name}: gold of a step of kind 'ans': expected JSON, got 'Verne'"):
        rewards.StepReward("table")(["", ""], kind=["ans"] * 2, answer=['"Verne"', "Verne"], **columns)


def test_a_configuration_names_it():
    (function,) = custom.load(("r1vl_jax.router.rewards:step_reward",), (1.0,))
    assert (function.name, function.runs_on_device) == ("step_reward", False)
    columns = {"kind": ["ans"], "answer": ['"Verne"'], "id": ["r1"]}
    assert function.call_on_host(["Who?"], [answer("Verne")], columns).tolist() == [1.0]
    assert hash(function) == hash(custom.load(("r1vl_jax.router.rewards:step_reward",), (1.0,))[0])
