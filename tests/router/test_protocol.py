"""Responses of R1-Router: what is read, what is malformed and why, and what is written."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1vl_jax.router.protocol import (
    RETRIEVERS,
    Malformed,
    Retrieval,
    parse_answer,
    parse_retrieval,
    write_answer,
    write_retrieval,
)

TEXT, IMAGE, TABLE = RETRIEVERS


def step(sub_question="Who wrote it?", retriever="Text Retriever"):
    return f"<think>Look it up.</think><sub-question>{sub_question}</sub-question><ret>{retriever}</ret>"


@pytest.mark.parametrize("found", RETRIEVERS, ids=lambda found: found.mark)
def test_a_retrieval_is_read(found):
    assert parse_retrieval(step(retriever=found.name)) == Retrieval("Look it up.", "Who wrote it?", found)


def test_the_marks_are_those_of_the_sources():
    assert [(each.name, each.mark, each.kind) for each in RETRIEVERS] == [
        ("Text Retriever", "ter", "text"),
        ("Text Image Retriever", "tir", "image"),
        ("Table Retriever", "tar", "table"),
    ]


def test_case_and_space_do_not_matter():
    text = "So.\n<THINK>\n a </THINK>\n\n<Sub-Question> Q? </Sub-Question> then\n<RET> table retriever\n</RET> done"
    assert parse_retrieval(text) == Retrieval("a", "Q?", TABLE)


def test_tags_that_the_reasoning_mentions_are_no_elements():
    text = "<think>I write <ret>Table Retriever</ret> or <answer>no</answer>.</think>"
    parsed = parse_retrieval(text + "<sub-question>Q?</sub-question><ret>Text Retriever</ret>")
    assert isinstance(parsed, Retrieval)
    assert parsed.retriever == TEXT
    assert parse_answer(text + "<answer>yes</answer>") == "yes"
    assert isinstance(parse_answer(text), Malformed)


@pytest.mark.parametrize("none", ["None", "none", " NONE "])
def test_none_and_none_end_the_search(none):
    parsed = parse_retrieval(step(none, none))
    assert isinstance(parsed, Retrieval)
    assert parsed.retriever is None
    assert parsed.ends_search


def test_a_sub_question_does_not_end_the_search():
    parsed = parse_retrieval(step())
    assert isinstance(parsed, Retrieval)
    assert not parsed.ends_search


@pytest.mark.parametrize(("sub_question", "retriever"), [("None", "Text Retriever"), ("Who?", "None")])
def test_one_none_alone_is_malformed_unless_it_is_allowed(sub_question, retriever):
    text = step(sub_question, retriever)
    assert parse_retrieval(text) == Malformed(
        "expected 'None' in both <sub-question> and <ret> or in neither, got it in one"
    )
    allowed = parse_retrieval(text, allow_half_none=True)
    assert isinstance(allowed, Retrieval)
    assert not allowed.ends_search


MALFORMED = {
    "nothing": ("", "expected <think>...</think>, got none"),
    "no think": (step().replace("think", "thought"), "expected <think>...</think>, got none"),
    "no sub-question": (step().replace("sub-q", "q"), "expected one <sub-question>...</sub-question>, got none"),
    "no retriever": (step().replace("ret>", "r>"), "expected one <ret>...</ret>, got none"),
    "cut off": (step()[:-1], "expected one <ret>...</ret>, got none"),
    "two sub-questions": (step() + step(), "expected one <sub-question>...</sub-question>, got 2"),
    "two retriever elements": (step() + "<ret>Table Retriever</ret>", "expected one <ret>...</ret>, got 2"),
    "two retrievers": (
        step(retriever="Text Retriever, Table Retriever"),
        "expected one retriever, got 2: 'Text Retriever, Table Retriever'",
    ),
    "None and another": (step(retriever="None, Table Retriever"), "expected one retriever, got 2"),
    "an unknown one": (
        step(retriever="Video Retriever"),
        "expected a retriever of Text Retriever, Text Image Retriever, Table Retriever, None, got 'Video Retriever'",
    ),
    "an empty sub-question": (step(" "), "expected a text in <sub-question>, got an empty one"),
    "an empty retriever": (step(retriever=""), "expected a text in <ret>, got an empty one"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_retrieval_says_why(name):
    text, reason = MALFORMED[name]
    for allow in (False, True):
        parsed = parse_retrieval(text, allow_half_none=allow)
        assert isinstance(parsed, Malformed)
        assert parsed.reason.startswith(reason)


def test_an_answer_is_read():
    assert parse_answer("<think>It says so.</think>\n<answer> Jules\nVerne </answer>") == "Jules\nVerne"


def test_of_several_answers_the_last_counts():
    assert parse_answer("<think>.</think><answer>one</answer> or <answer>two</answer>") == "two"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<answer>one</answer>", "expected <think>...</think>, got none"),
        ("<think>.</think>one", "expected <answer>...</answer>, got none"),
        ("<think>.</think><answer>one", "expected <answer>...</answer>, got none"),
        ("<think>.</think><answer> </answer>", "expected a text in <answer>, got an empty one"),
    ],
)
def test_a_malformed_answer_says_why(text, reason):
    assert parse_answer(text) == Malformed(reason)


def test_a_tag_that_is_repeated_without_end_costs_no_time():
    """A search from each of the openings for an end that is not there would take minutes."""
    start = time.monotonic()
    assert isinstance(parse_answer("<think>" * 100_000), Malformed)
    assert isinstance(parse_retrieval("<think>.</think>" + "<sub-question>" * 100_000), Malformed)
    assert parse_answer("<think>.</think>" + "<answer>" * 100_000 + "no</answer>") != "no"
    assert time.monotonic() - start < 10


contents = st.text(st.characters(exclude_characters="<>"), min_size=1).map(str.strip).filter(bool)


@settings(deadline=None)
@given(
    think=contents, sub_question=contents.filter(lambda text: text.lower() != "none"), found=st.sampled_from(RETRIEVERS)
)
def test_what_is_written_is_read(think, sub_question, found):
    assert parse_retrieval(write_retrieval(think, sub_question, found.name)) == Retrieval(think, sub_question, found)
    assert parse_answer(write_answer(think, sub_question)) == sub_question


def test_by_default_the_end_of_the_search_is_written():
    assert write_retrieval("Enough.") == "<think>Enough.</think>\n<sub-question>None</sub-question>\n<ret>None</ret>"


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda: write_retrieval("a", "Q?", "Video Retriever"), "got 'Video Retriever'"),
        (lambda: write_retrieval("a", "Q?"), "got it in one"),
        (lambda: write_retrieval("a", "", "Text Retriever"), "an empty one"),
        (lambda: write_retrieval("a</think>b", "Q?", "Text Retriever"), "has tags of the format"),
        (lambda: write_retrieval("a", "Q?</sub-question>", "Text Retriever"), "has tags of the format"),
        (lambda: write_answer("a", ""), "an empty one"),
        (lambda: write_answer("a", "b</answer>"), "has tags of the format"),
    ],
    ids=["unknown", "half none", "empty", "think ends", "sub-question ends", "no answer", "answer ends"],
)
def test_a_step_that_could_not_be_read_is_not_written(write, reason):
    with pytest.raises(ValueError, match=reason):
        write()
