"""The gold of a record, as JSON in its `answer`."""

import pytest

from r1vl_jax.router.golds import RetrievalGold, gold_answer, gold_retrieval, read_answer_golds, read_retrieval_gold
from r1vl_jax.router.protocol import RETRIEVERS


@pytest.mark.parametrize("names", ['"Table Retriever"', '["table retriever"]', '["table retriever", "None"]'])
def test_the_first_retriever_counts(names):
    gold = read_retrieval_gold(f'{{"query": "Which year?", "retriever": {names}}}')
    assert gold == RetrievalGold("Which year?", RETRIEVERS[2])


def test_the_end_of_a_search_is_read():
    assert read_retrieval_gold('{"query": "none", "retriever": ["none"]}') == RetrievalGold("none", None)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Who?", "expected JSON, got 'Who\\?'"),
        ('"Who?"', 'expected {"query": TEXT'),
        ('{"query": 1, "retriever": "None"}', 'expected {"query": TEXT'),
        ('{"query": " ", "retriever": "None"}', 'expected {"query": TEXT'),
        ('{"query": "Who?"}', "retriever: expected a name or a list of names, got None"),
        ('{"query": "Who?", "retriever": []}', "retriever: expected a name"),
        ('{"query": "Who?", "retriever": [null]}', "retriever: expected a name"),
        ('{"query": "Who?", "retriever": "Video Retriever"}', "expected a retriever of Text Retriever"),
    ],
)
def test_an_unreadable_retrieval_says_why(answer, reason):
    with pytest.raises(ValueError, match=reason):
        read_retrieval_gold(answer)


@pytest.mark.parametrize(
    ("answer", "golds"), [('"Verne"', ("Verne",)), ('["Verne"]', ("Verne",)), ('["V", "Verne"]', ("V", "Verne"))]
)
def test_answers_are_a_text_or_a_list(answer, golds):
    assert read_answer_golds(answer) == golds


@pytest.mark.parametrize("answer", ["Verne", "[]", '""', '["Verne", ""]', "[1905]", "1905", '{"query": "a"}', "null"])
def test_unreadable_answers_say_why(answer):
    with pytest.raises(ValueError, match="expected"):
        read_answer_golds(answer)


@pytest.mark.parametrize("name", ["Text Retriever", "text image retriever", "None"])
def test_what_is_written_is_read(name):
    gold = read_retrieval_gold(gold_retrieval("Wer schrieb „Faust“?", name))
    assert gold.query == "Wer schrieb „Faust“?"
    assert (gold.retriever.name if gold.retriever else "None").lower() == name.lower()
    assert read_answer_golds(gold_answer(["Goethe", "J. W. v. Goethe"])) == ("Goethe", "J. W. v. Goethe")


def test_golds_that_could_not_be_read_are_not_written():
    with pytest.raises(ValueError, match="expected a retriever of"):
        gold_retrieval("Who?", "Video Retriever")
    with pytest.raises(ValueError, match="expected"):
        gold_answer(["Verne", " "])
