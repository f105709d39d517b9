"""Answers out of responses and out of cells of every type."""

import pytest

from r1vl_jax.data.sources.answers import answer_in_column, answer_in_response, list_choices, parse_choices
from r1vl_jax.response_format import compose


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (compose("A.", "B.", ["C."], "14"), "14"),
        ("<think>9 < 14</think>\n<answer> 14 </answer>", "14"),
        (r"First \boxed{3}, then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{14}", "14"),
        (r"so \boxed{5} is \boxed{14}", "14"),
        (compose("A.", "B.", ["C."], r"\boxed{14}"), "14"),
        (compose("A.", "B.", ["C."], r"\boxed{5} \boxed{14}"), r"\boxed{5} \boxed{14}"),
        ("2 + 3 = 5\n#### 5", "5"),
        ("14", "14"),
        ("The answer is 14.", "The answer is 14."),
        ("It is large.\nIt is green.", ""),
        ("x" * 101, ""),
        (compose("A.", "B.", ["C."], ""), ""),
        ("", ""),
    ],
    ids="heading,element,last box,box,boxes,box below,boxes below,####,bare,line,lines,long,empty,none".split(","),
)
def test_the_answer_of_a_response(response, answer):
    assert answer_in_response(response) == answer


@pytest.mark.parametrize(
    ("cell", "answer"),
    [
        (14, "14"),
        (14.0, "14"),
        (0.25, "0.25"),
        (True, "yes"),
        (False, "no"),
        (None, ""),
        (float("nan"), ""),
        (["14", "fourteen"], "14"),
        ([], ""),
        (r"\boxed{A}", "A"),
        ("9 + 5\n#### 14", "14"),
        ("A long answer.\nIn two lines.", "A long answer.\nIn two lines."),
    ],
    ids=repr,
)
def test_the_answer_of_a_cell(cell, answer):
    assert answer_in_column(cell) == answer


def test_true_and_false_are_answers_where_the_question_offers_them():
    assert answer_in_column(True, problem="True or false: 1 < 2") == "True"
    assert answer_in_column(False, problem="Is 2 < 1? True/False") == "False"


@pytest.mark.parametrize(
    ("cell", "answer"),
    [
        (1, "B: dog"),
        ("B", "B: dog"),
        ("(B)", "B: dog"),
        ("dog", "B: dog"),
        ("fish", "fish"),
        (["B"], "B: dog"),
        (r"\boxed{B}", "B: dog"),
        ("b", "B: dog"),
        ("(b)", "B: dog"),
        (1.0, "B: dog"),
        (0.0, "A: cat"),
        ("1", "B: dog"),
        ("1.0", "B: dog"),
        (0.5, "0.5"),
        (float("nan"), ""),
    ],
    ids=repr,
)
def test_the_answer_among_choices(cell, answer):
    assert answer_in_column(cell, choices=("cat", "dog", "eel")) == answer


@pytest.mark.parametrize(
    ("cell", "choices", "message"),
    [
        (3, ("cat", "dog"), "its answer 3 neither counts the 2 choices from 0 nor is one of them"),
        (1, ("1", "2"), "its answer 1 could be choice 1, counted from 0, or the choice that reads 1"),
        (2.0, ("cat", "dog"), "its answer 2 neither counts the 2 choices"),
        ("2", ("cat", "dog"), "its answer 2 neither counts the 2 choices"),
        ("-1", ("cat", "dog"), "its answer -1 neither counts the 2 choices"),
        (1.0, ("1.0", "2.0"), "its answer 1 could be choice 1, counted from 0, or the choice that reads 1"),
        ("9" * 5000, ("cat", "dog"), "4300 digits"),
        ("C", ("cat", "dog"), "its answer 'C' is the letter of none of its 2 choices"),
        ("z.", ("cat", "dog"), "its answer 'z' is the letter of none of its 2 choices"),
        (float("inf"), (), "expected a text, a finite number"),
        ({"a": 1}, (), "expected a text, a finite number"),
    ],
)
def test_an_answer_that_cannot_be_known_is_refused(cell, choices, message):
    with pytest.raises(ValueError, match=message):
        answer_in_column(cell, choices=choices)


def test_a_number_that_is_one_of_the_choices_is_that_choice():
    assert answer_in_column(45, choices=("30", "45")) == "B: 45"
    assert answer_in_column(0, choices=("0", "1")) == "A: 0"
    assert answer_in_column("1", choices=("1", "2")) == "A: 1"
    assert answer_in_column(45.0, choices=("30.0", "45.0")) == "B: 45.0"


def test_a_small_letter_that_is_one_of_the_choices_is_that_choice():
    assert answer_in_column("a", choices=("b", "a")) == "B: a"


@pytest.mark.parametrize(
    "cell",
    [["3", "5"], [3, 5.0], ["A. 3", "B. 5"], ["(A) 3", "(B) 5"], {"A": "3", "B": 5}, '["3", "5"]']
    + ["['3', '5']", "[3,\n '5']", "{'A': '3', 'B': '5'}"],
    ids=repr,
)
def test_choices_in_every_layout(cell):
    assert parse_choices(cell) == ("3", "5")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("['3' '5']", "choices: expected commas between the texts of a list"),
        ("[print('3')]", "choices: expected JSON or a Python literal, got"),
        ("[" * 5000, r"choices: expected JSON or a Python literal, got '\[\["),
    ],
    ids=["without commas", "program", "deep"],
)
def test_choices_that_are_no_list_are_refused(cell, message):
    with pytest.raises(ValueError, match=message):
        parse_choices(cell)


def test_choices_are_listed_unless_the_question_has_them():
    assert list_choices("How many?", ("3", "5")) == "How many?\nA: 3\nB: 5"
    for listed in ("How many?\nA. 3\nB. 5", "How many? (A) 3 (B) 5", "How many?\nA: 3\nB: 5"):
        assert list_choices(listed, ("3", "5")) == listed
    assert list_choices("How many?", parse_choices(None)) == "How many?"
