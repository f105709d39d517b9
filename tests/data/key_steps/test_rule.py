"""Key steps by rule: what is taken from solutions of several styles, what is not, and what always holds."""

import doctest
import random
import re
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1vl_jax import response_format, rewards
from r1vl_jax.data.digits.puzzles import KINDS
from r1vl_jax.data.key_steps import key_steps_by_rule

MULBERRY = response_format.compose(
    "A book: each row has 12 pages, 3*3=9.",
    "Multiply, then add: 2*2=4.",
    [r"Each row has 8 \times 6 = 48 squares.", "Adding the 5 left over, 48 + 5 = 53."],
    "53",
)
# name: question, solution, a spelling of each group expected (as the solution has it)
TABLE = {
    "Mulberry, from its steps alone": ("How many?", MULBERRY, [r"8 \times 6 = 48", "48 + 5 = 53"]),
    "GSM8K": (
        "Natalia sold clips to 48 friends, and then half as many. How many altogether?",
        "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nNatalia sold 48+24 = <<48+24=72>>72 clips.\n#### 72",
        ["48/2=24", "48+24=72"],
    ),
    "GSM8K with money and groups of digits": (
        "How much?",
        "It came out to 80,000+50,000=$<<80000+50000=130000>>130,000.\nHe sold it for 80,000 * 1.5 = 120,000.\n#### 5",
        ["80000+50000=130000", "80,000 * 1.5 = 120,000"],
    ),
    "Geometry, a root": (
        "Find AB.",
        r"By Pythagoras, $AB = \sqrt{3^2+4^2} = 5$.",
        [r"AB = \sqrt{3^2+4^2} = 5"],
    ),
    "Geometry, fractions and units": (
        "What is the area?",
        r"\text{Area} = \frac{1}{2} \cdot 6 \cdot 8 = 24 \text{ cm}^2, and 5 cm * 3 cm = 15 cm^2.",
        [
            r"\text{Area} = \frac{1}{2} \cdot 6 \cdot 8 = 24",
            "5 cm * 3 cm = 15",
        ],
    ),
    "Geometry, angles": (
        "Find angle B.",
        r"Since $\angle A = 90^\circ$, we have $\angle B = 180^\circ - 90^\circ - 37^\circ = 53^\circ$.",
        [
            r"\angle A = 90",
            r"\angle B = 180^\circ - 90^\circ - 37^\circ = 53",
        ],
    ),
    "Geometry, trigonometry and brackets": (
        "What is x?",
        r"We know \[ \sin 30^\circ = \frac{1}{2} \] so \( x = \frac{-3 + \sqrt{25}}{2} = 1 \).",
        [r"\sin 30^\circ = \frac{1}{2}", r"\frac{-3 + \sqrt{25}}{2} = 1"],
    ),
    "algebra": (
        "Solve the equation for the number of girls, please, with all of the steps.",
        "3x + 2 = 14, so 3x = 12 and x = 4.\n\nThus there are 4 girls, as was to be shown from the start.",
        ["3x + 2 = 14", "3x = 12", "x = 4"],
    ),
    "ChartQA": (
        "How much higher is it than in 2018?",
        "The value for 2019 is 31.4%, 2.5 higher than 28.9. The difference is 31.4 - 28.9 = 2.5.",
        ["value for 2019 is 31.4%", "difference is 31.4 - 28.9 = 2.5"],
    ),
    "ChartQA, numbers with units where there is nothing else": (
        "Which is the warmest month?",
        "In May the bar reaches 23°C, in June 27 °C.\n\nWith 45% of the votes of 60 km it is June, as one sees here.",
        ["23°C", "27 °C", "45%", "60 km"],
    ),
    "in words": (
        "How many?",
        "8 times 6 is 48, and 12 divided by 2 equals 6.",
        ["8 times 6 is 48", "12 divided by 2 equals 6"],
    ),
    "a name of several words": (
        "How much is left, in dollars, when all is paid for?",
        "Because 100 - 20 equals 80, the remaining amount of money is $80. The width of the box is 12 cm.",
        ["100 - 20 equals 80", "remaining amount of money is $80", "width of the box is 12"],
    ),
    "comparisons": ("Which is more?", "17>3, and 2 < 15.", ["17>3", "2 < 15"]),
    "thought and answer in elements": (
        "How many?",
        "<think>We add 17 + 25 = 42.</think><answer>42</answer>",
        ["17 + 25 = 42"],
    ),
    "Chinese": ("多少？", "第一步：8×6=48。然后48+5=53。", ["8×6=48", "48+5=53"]),
    "percentages": ("By how much did it grow?", "Growth: (120-100)/100 = 20%.", ["(120-100)/100 = 20%"]),
    "the same twice, commuted": ("How many?", "8 * 6 = 48. 6 * 8 = 48. 48 = 8*6.", ["8 * 6 = 48"]),
    # What is no key step.
    "wrong arithmetic": ("How many?", "8*6=49, so 49 + 5 = 53 and 3/4 = 0.9.", []),
    "prose": ("What is it?", "A dog, which is a mammal. It is 1 of 2 kinds. There are 5. In 2018 it slept.", []),
    "the answer alone": ("How many?", "The answer is 12. Answer = 12. The final answer is 12. It is 12.\n#### 12", []),
    "the answer, if it is a named quantity": ("How many?", "So the width = 12 cm.\n#### width = 12", []),
    "what the question says": (
        "If AB is 12 cm, what is 8*6 = 48? The radius r is 15. It weighs 40 kg.",
        "We know AB = 12, 8 \\times 6 = 48, r = 15 and 40 kg. Nothing else is known about any of them.",
        [],
    ),
    "the other than is meant": ("Q?", "The ratio is 2 to 3. Tom is 5 years older than Ann. The width is 3 less.", []),
    "formulas without numbers": ("Q?", "a^2 + b^2 = c^2 and y = mx + b and V = lwh, and x + y = 10.", []),
    "empty braces": ("Q?", r"So x = \frac{1}{} = 15, \frac{}{2} = 12 and 8 \times 6 = 48.", [r"8 \times 6 = 48"]),
    "code": ("Q?", "def f(x): return x == 5; if x <= 3 then y != 4. a >= 10", []),
    "numbers equal to numbers": ("Q?", "3 km = 3000 m, 1.50 = 1.5, 0.5 = 50%.", []),
    "single digits alone": (
        "Q?",
        r"We have 5+3=8 and 7 > 3. With $(2)(3) = 6$ and 9 apples - 4 apples = 5 apples, \frac{6}{3} = 2."
        "\n#### none",
        [],
    ),
    "single digits that a name, an unknown or another number goes with": (
        "Q?",
        "The number of cats is 3 + 4 = 7, 2x = 6, 1 + 2 + 3 = 6, 9 + 8 = 17 and 3/4 = 0.75.\n#### none",
        ["number of cats is 3 + 4 = 7", "2x = 6", "1 + 2 + 3 = 6", "9 + 8 = 17", "3/4 = 0.75"],
    ),
    "a single digit with a unit": ("Q?", "It is 5 km away, and it takes us 3 h to go.\nIt is 7% warmer.", []),
}
PAGE = Path(__file__).parents[3] / "docs" / "data.md"
TABLE_CASES = pytest.mark.parametrize("name", TABLE)


@TABLE_CASES
def test_the_key_steps_of_a_solution(name):
    question, solution, expected = TABLE[name]
    assert [group[0] for group in key_steps_by_rule(question, solution)] == expected


def test_the_example_of_the_page_is_what_it_says():
    (example,) = re.findall(r"```pycon\n(.*?)```", PAGE.read_text(), re.DOTALL)
    test = doctest.DocTestParser().get_doctest(example, {}, "data.md", None, None)
    assert doctest.DocTestRunner(verbose=False).run(test) == (0, 3)


def test_a_named_quantity_and_its_computation_are_one_key_step_which_either_earns():
    (group,) = key_steps_by_rule("Find AB.", r"So $AB = 12 \times 4 = 48$.")
    for stated in ("AB = 48", "AB is 48", "12 * 4 = 48", "4 times 12 is 48", "the product of 12 and 4 is 48"):
        assert rewards.key_step_spans(f"Here {stated}.", [group], semantics="paper")[0], stated
    for stated in ("AB = 12", "12 * 4 = 49", "4 + 12 = 48"):
        assert not rewards.key_step_spans(f"Here {stated}.", [group], semantics="paper")[0], stated


def test_of_a_named_quantity_and_its_computation_of_single_digits_the_name_alone_earns():
    (group,) = key_steps_by_rule("Find AB.", "So $AB = 3 + 4 = 7$.")
    assert rewards.key_step_spans("AB is 7", [group], semantics="paper")[0]
    assert not rewards.key_step_spans("3 + 4 = 7", [group], semantics="paper")[0]


@pytest.mark.parametrize(
    ("chain", "stated"),
    [
        (r"AB = \sqrt{144} = 12", ("AB = 12", r"\sqrt{144} = 12")),
        (r"P = \frac{3}{12} = \frac{1}{4} = 0.25", ("P = 0.25", r"\frac{3}{12} = 0.25", "1/4 = 0.25")),
        ("Area = 6 * 8 / 2 = 48 / 2 = 24", ("Area is 24", "6 * 8 / 2 = 24", "48/2 = 24")),
        ("slope = 15/12 = 1.25", ("slope is 1.25", "15 / 12 = 1.25")),
    ],
)
def test_a_chain_with_a_name_is_one_key_step_whatever_its_links(chain, stated):
    (group,) = key_steps_by_rule("Find it.", f"So ${chain}$.\n#### none")
    for text in stated:
        assert rewards.key_step_spans(f"Here {text}.", [group], semantics="paper")[0], text
    for text in ("6 * 8 / 2 = 48 / 2", "3/12 = 1/4", "Area = 48"):  # which say nothing of the end
        assert not rewards.key_step_spans(f"Here {text} = 99.", [group], semantics="paper")[0], text


def test_of_a_named_quantity_that_the_question_has_the_computation_stays():
    (group,) = key_steps_by_rule("Why is AB = 48?", r"So $AB = 12 \times 4 = 48$.")
    assert group[0] == r"12 \times 4 = 48"
    assert "AB = 48" not in group


def test_spellings_are_plain_latex_and_words_with_either_side_first():
    (group, _) = key_steps_by_rule("How many?", MULBERRY)
    assert group[0] == r"8 \times 6 = 48"
    assert {"8*6=48", "8 * 6 = 48", "8 times 6 is 48", "48=8*6", r"48 = 8 \times 6", "6*8=48", "8 × 6 = 48"} <= {*group}
    (group,) = key_steps_by_rule("How many?", r"\dfrac{12}{2}=6.")
    assert {r"\dfrac{12}{2}=6", "12/2 = 6", "12 / 2 = 6", r"\frac{12}{2} = 6", "12 divided by 2 is 6"} <= {*group}
    (group,) = key_steps_by_rule("Q?", r"So \angle ABC = 53^\circ.")
    assert {r"\angle ABC=53", "53=\\angle ABC", "angle ABC is 53"} <= {*group}


def test_spellings_are_equal_to_what_the_solution_states():
    """Each spelling of an equation that Python can read is one in Python."""
    for question, solution, _ in TABLE.values():
        for group in key_steps_by_rule(question, solution):
            sides = [spelling.split("=") for spelling in group if set(spelling) <= set("0123456789.+-*/= ")]
            assert all(abs(eval(left) - eval(right)) < 0.01 for left, right in sides)


def test_of_many_steps_those_kept_are_spread_over_the_solution():
    solution = "\n".join(f"{number} + 100 = {number + 100}" for number in range(10, 30))
    kept = [group[0] for group in key_steps_by_rule("Q?", solution, max_steps=4)]
    assert kept == [f"{number} + 100 = {number + 100}" for number in (10, 15, 20, 25)]
    assert len(key_steps_by_rule("Q?", solution)) == 8


def made_up(rng: random.Random) -> tuple[str, str]:
    """A question and a solution of pieces of every style."""
    a, b, c = (rng.randint(2, 99) for _ in range(3))
    pieces = [
        f"We get {a} \\times {b} = {a * b} cm.",
        f"${a}+{b} = {a + b}$ and \\frac{{{a * b}}}{{{b}}}={a}",
        f"The total cost of the trip is ${a * b}, i.e. {a} plus {b} is {a + b}.",
        f"AB = \\sqrt{{{a}^2 + {b}^2}} \\approx {(a * a + b * b) ** 0.5:.2f}",
        f"x = {a}x^2-{c}=$({a}+{b})*{c} = {(a + b) * c}$.",
        f"value for {a} is {b}.5%; {c}>{a}, the{'$'}x={a}${'$'} {b} km",
        "\n\n",
        "\\left(",
        "= {",
        "<<",
        "###",
    ]
    text = " ".join(rng.choice(pieces) for _ in range(rng.randint(1, 6)))
    if rng.random() < 0.5:
        text = response_format.compose("A.", "B.", [text, rng.choice(pieces)], str(a))
    return f"Given {a} and {c} cm, how many?", text


def test_a_response_equal_to_the_solution_matches_all():
    rng = random.Random(0)
    num_groups = 0
    for question, solution in [made_up(rng) for _ in range(320)] + [case[:2] for case in TABLE.values()]:
        groups = key_steps_by_rule(question, solution)
        num_groups += len(groups)
        assert groups == key_steps_by_rule(question, solution)
        assert all(rewards.key_step_spans(solution, groups, semantics="paper")), solution
        if "### Step 1:" in solution:
            assert all(rewards.key_step_spans(solution, groups, semantics="released")), solution
        for semantics in ("paper", "released"):
            asked = response_format.compose("A.", "B.", [question], "C")
            assert not any(rewards.key_step_spans(asked, groups, semantics=semantics)), question
        assert all(1 < len(group) <= 24 and max(map(len, group)) < 100 for group in groups)
    assert num_groups > 600


@settings(max_examples=100, deadline=None)
@given(
    question=st.text(max_size=50), solution=st.text("0123456789+-*/=<>^_(){}[]\\$ .,%#\nabxABΩ时\ud800", max_size=200)
)
def test_any_text_has_key_steps_that_it_matches(question, solution):
    groups = key_steps_by_rule(question, solution)
    assert all(rewards.key_step_spans(solution, groups, semantics="paper"))


def test_a_wrong_path_does_not_match_what_it_gets_wrong():
    wrong = MULBERRY.replace("48", "42").replace("53", "47")
    groups = key_steps_by_rule("How many?", MULBERRY)
    assert not any(rewards.key_step_spans(wrong, groups, semantics="paper"))


@pytest.mark.parametrize(
    "unit",
    [
        "1+",
        "(",
        "{",
        "=",
        "1=",
        "x ",
        "\\frac{",
        "a b ",
        "$",
        "1",
        "9.",
        "1 = 1, ",
        "12 + 13 = 25 ",
        "8 km ",
        "<",
        "the ",
        "\n",
        " \n",
        "^",
    ],
)
def test_hostile_text_takes_less_than_a_second(unit):
    text = (unit * 100_000)[:100_000]
    start = time.process_time()
    key_steps_by_rule(text, text)
    key_steps_by_rule("Q?", f"{text[:299]}\n" * 300)
    assert time.process_time() - start < 1


def test_the_embedded_task_s_own_key_steps_are_found():
    """All that is found is a key step, and all are found but those of single digits alone, such as `9-0=9`."""

    def keys(groups):
        return [{spelling.replace(" ", "") for spelling in group} for group in groups]

    num_found = num_right = num_true = num_recalled = 0
    for kind in KINDS:
        for difficulty in (1, 2, 3):
            rng = np.random.default_rng(difficulty)
            for puzzle in [kind.draw(rng, difficulty) for _ in range(40)]:
                found, true = keys(key_steps_by_rule(puzzle.question, puzzle.path)), keys(puzzle.key_steps)
                num_found, num_true = num_found + len(found), num_true + len(true)
                num_right += sum(any(each & other for other in true) for each in found)
                num_recalled += sum(any(each & other for other in found) for each in true)
    assert num_right / num_found == 1.0
    assert num_recalled / num_true > 0.95
