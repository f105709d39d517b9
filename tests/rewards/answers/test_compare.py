"""Answers are compared as docs/rewards.md says: a table of cases, and properties of every kind."""

import time
from collections import Counter

import pytest
from helpers.answer_cases import read_cases
from helpers.answer_values import KINDS, written
from hypothesis import given, settings
from hypothesis import strategies as st

from r1vl_jax import rewards

CASES = read_cases()
GOLDS = list(dict.fromkeys((case.kind, case.gold) for case in CASES))


@pytest.fixture(scope="module")
def judge():
    with rewards.Judge(num_workers=2, timeout_s=60.0) as judge:
        yield judge


def test_the_table_is_large_enough():
    assert len(set(CASES)) == len(CASES) >= 1_000
    assert sum(not case.is_right for case in CASES) >= len(CASES) / 3
    assert min(Counter(case.kind for case in CASES).values()) >= 15


@pytest.mark.parametrize(("kind", "gold"), GOLDS, ids=[gold for _, gold in GOLDS])
def test_the_table(judge, kind, gold):
    for case in CASES:
        if (case.kind, case.gold) == (kind, gold):
            explanation = rewards.explain(gold, case.prediction, judge=judge)
            assert explanation.is_correct is case.is_right, (case, explanation)
            assert explanation.kind == kind


@pytest.mark.parametrize("name", KINDS)
def test_an_answer_equals_itself_in_every_spelling_and_wrapping(judge, name):
    kind = KINDS[name]

    @given(st.data())
    @settings(max_examples=150, deadline=None)
    def check(data):
        value = data.draw(kind.values)
        gold, prediction = data.draw(written(kind, value)), data.draw(written(kind, value))
        assert rewards.explain(gold, prediction, judge=judge).is_correct, (gold, prediction)

    check()


@pytest.mark.parametrize("name", KINDS)
def test_answers_of_different_values_are_never_equal(judge, name):
    kind = KINDS[name]

    @given(st.data())
    @settings(max_examples=150, deadline=None)
    def check(data):
        one = data.draw(kind.values)
        other = data.draw(kind.values.filter(lambda value: value != one))
        gold, prediction = data.draw(written(kind, one)), data.draw(written(kind, other))
        assert rewards.explain(gold, prediction, judge=judge).is_correct is False, (gold, prediction)

    check()


@given(st.text(max_size=40), st.text(max_size=40))
@settings(deadline=None)
def test_any_text_is_compared_and_equals_itself(gold, prediction):
    rewards.explain(gold, prediction)
    assert rewards.explain(gold, gold).is_correct


def test_an_explanation():
    explanation = rewards.explain("**3 km**", r"\boxed{3000\text{ m}}")
    assert explanation == rewards.Explanation("number with unit", "3 km", "3000 m", False, "another unit")


def test_mathematics_is_undecided_without_a_judge(judge):
    assert rewards.explain("2^{10}", "1024").is_correct is None
    assert rewards.explain("2^{10}", "1024", judge=judge).reason == "math-verify: equal"
    assert rewards.explain("2^{10}", "1025", judge=judge).reason == "math-verify: different"
    assert rewards.explain("2^{10}", "2^{10}").is_correct


@pytest.mark.parametrize(
    "text",
    [
        "1e3000000",
        "10^{3000000}",
        "9" * 1_000,
        "9" * 100_000,
        "1," * 50_000,
        "(" * 900 + "1" + ")" * 900,
        "(1," * 300 + "1" + ")" * 300,
        r"\boxed{" * 140 + "1" + "}" * 140,
        "**" * 400,
        "$" * 999,
        "x=" * 400,
        "1 or " * 190,
        "{" * 999,
        r"\frac{" * 160,
        "A: " * 300,
        "5" + " " * 900 + "x",
        "`" * 998,
        "\\" * 999,
        "-" * 999,
        "1/" * 499,
        "a_" * 499,
        "3 km " * 190,
        "½" * 900,
        "√" * 900,
        "{0," * 30 + "1" + "}" * 30,
        ",".join(f"{number}a+1" for number in range(90)),
    ],
    ids=lambda text: f"{text[:8]}*{len(text)}",
)
def test_no_text_takes_long(text):
    """The comparison has no limit of time: nothing in it may grow with what a policy writes."""
    start = time.process_time()
    for gold, prediction in (("5", text), (text, "5"), (text, text + "1"), ("1, 2", text), ("B: 45", "B: " + text)):
        rewards.explain(gold, prediction)
    assert time.process_time() - start < 0.25
