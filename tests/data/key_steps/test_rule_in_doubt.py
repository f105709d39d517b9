"""Key steps by rule of text that tempts to false ones: what is in doubt is left out, and no side is cut short."""

import pytest

from r1vl_jax.data.key_steps import key_steps_by_rule
from r1vl_jax.rewards import key_step_spans

# solution: a spelling of each group expected
FACTORS = {
    "perimeter = 2 (3 + 4) = 14": ["perimeter = 2 (3 + 4) = 14"],
    "Area = 1/2 (6)(8) = 24": ["Area = 1/2 (6)(8) = 24"],
    r"A = \frac{1}{2} (6) (8) = 24": [r"A = \frac{1}{2} (6) (8) = 24"],
    r"C = 2\pi (7)": [],
    "f(2) = 3 (2)^2 = 12": ["3 (2)^2 = 12"],
    "y = 2 (x + 1)": [],
    "y = 2 [x + 1]": [],
    r"y = 2 \{x + 1\}": [],
    "y = 2 x + 1": [],
    "y = 2 n": [],
    "y = 12 (see the figure)": ["y = 12"],
    "y = 12 m, and z = 13 L.": ["y = 12", "z = 13"],
    r"V = \frac{4}{3}\pi r^3 = \frac{4}{3}\pi (3)^3 = 36\pi": [
        r"V = \frac{4}{3}\pi r^3 = \frac{4}{3}\pi (3)^3 = 36\pi",
    ],
    r"y = 2\frac{1}{2}": [],
    "share = 20% of 50": ["20%"],  # no name of it
    "share = 1/2 of 30": [],
    "y = 5 times the width": [],
    r"y = 15 \bmod 4": [],
    "y = 12 ± 3": [],
    "The price was 31 in 2019.": ["price was 31"],
    "y = 12 or 13": [],
    "y = 2 3/4": [],
    r"total = 5 \left( 3 + 4 \right) = 35": [r"total = 5 \left( 3 + 4 \right) = 35"],
    "The interval is 5..7": [],
    "y = 2 to 5": [],
}
DOUBTS = {
    "It cannot be that x = 5.": [],
    "Suppose y = 7.": [],
    "Is z = 4? No": [],
    "It is wrong that 2 + 3 = 5.": [],
    "Not 5*5 = 25.": [],
    "AB = 12 is impossible.": [],
    "It is not 45 km.": [],
    "He doesn't have 5 + 6 = 11.": [],
    "If AB = 12, then CD = 13. Then EF = 14.": ["EF = 14"],
    "If there are 5 rows of 4, there are 5 * 4 = 20 seats.": ["5 * 4 = 20"],
    "x = 15 or x = 16": [],
    "x = 15. That is wrong.": [],
    "Here 12 is the sum of a and b = 12.": [],
    "Twice z = 14.": [],
    "the area of triangle ABC = 24 and angle B = 53": ["B = 53"],
    "When AB = 12 we are done.": [],
    "不是 3+9=12。3+8=11。": ["3+8=11"],
}
STRUCTURE = {
    "17 mod 5 = 2": [],
    "5 choose 2 = 10": [],
    "Step 3 = 4": [],
    "Table 1 = 15": [],
    "Row 3 is 15": [],
    "Chapter 5 = 77": [],
    "Question 5 is 17": [],
    "The page is 44": [],
    "ISBN 978-3 = 5": [],
    "USD 50 = 45": [],
    "<img width=200 src=a.png href=12>": [],
    "href=12": [],
    "A 12% increase is 15.": ["12%"],
    "In 5 years Ann is 20.": [],
    "the length of the row is 15, and angle 1 is 40": ["length of the row is 15", "angle 1 is 40"],
}
EASY = {
    r"\frac12 \times 8 = 4": [r"\frac12 \times 8 = 4"],
    r"\begin{aligned} a &= 13 + 4 \\ &= 17 \\ b &= 17 - 5 = 12 \end{aligned}": ["b &= 17 - 5 = 12"],
    "- 5 + 6 = 11\n- 8 + 4 = 12": ["5 + 6 = 11", "8 + 4 = 12"],
    "1{,}000 + 500 = 1{,}500": ["1{,}000 + 500 = 1{,}500"],
    "３＋８＝１１": ["３＋８＝１１"],
}
SHORT = {
    "x = 12 - 8 = 4": ["12 - 8 = 4"],
    "x = 4": ["x = 4"],
    "x = 20 + 4 = 24": ["x = 20 + 4 = 24"],
}
CASES = FACTORS | DOUBTS | STRUCTURE | EASY | SHORT
COPIES = {
    "If 3 + 4 = 7, what is 3 + 5?": "Three plus four is 7.",
    "Bob has 5 red, 4 green marbles. How many?": "The number of red is 5.",
    "The table: 2018: 30, 2019: 45. How much more?": "The value for 2018 is 30.",
}


@pytest.mark.parametrize("solution", CASES)
def test_what_is_in_doubt_is_left_out(solution):
    groups = key_steps_by_rule("Q?", solution + "\n#### none")
    assert [group[0] for group in groups] == CASES[solution]
    assert all(key_step_spans(solution, groups, semantics="paper"))


@pytest.mark.parametrize("question", COPIES)
def test_what_the_question_says_in_other_words_is_left_out(question):
    assert key_steps_by_rule(question, COPIES[question]) == ()


def test_reversed_spellings_of_a_short_name_are_left_out():
    """`4=x` is in "3 + 4 = x", too."""
    (group,) = key_steps_by_rule("Q?", "So x = 4.\n#### none")
    assert group == ("x = 4", "x=4", "x is 4")
    (group,) = key_steps_by_rule("Q?", "So count = 4")
    assert {"4=count", "4 = count"} <= {*group}


def test_plain_spellings_keep_pi_apart_from_a_letter():
    (group,) = key_steps_by_rule("Q?", "\\frac{4}{3}\\pi r^3 = 36\\pi\n#### none")
    assert not any(r"\pir" in spelling or "\\\\" in spelling for spelling in group)
    assert {"4/3*pi*r^3=36pi", r"\frac{4}{3} \times \pi \times r^3 = 36pi"} <= {*group}


def test_fullwidth_arithmetic_has_plain_spellings():
    (group,) = key_steps_by_rule("Q?", "３＋８＝１１\n#### none")
    assert {"3+8=11", "3 + 8 = 11"} <= {*group}


@pytest.mark.parametrize("correction", ["Hmm, actually, no.", "Wait, that is the tax.", "Oops.", "No, that cannot be."])
def test_what_is_corrected_is_left_out(correction):
    (group,) = key_steps_by_rule("Q?", f"We get 12 + 15 = 27. {correction} We get 12 + 19 = 31.\n#### none")
    assert group[0] == "12 + 19 = 31"
