"""Validity and key steps of single completions: a table of cases, and an oracle over all orders of sections."""

import itertools

import pytest

from r1vl_jax import response_format, rewards
from r1vl_jax.rewards import strings

D = f"{response_format.DESCRIPTION}\nA picture of digits.\n"
R = f"{response_format.RATIONALE}\nThey are to be added.\n"
T = f"{response_format.THINK}\n"
S1, S2, S3 = (f"{response_format.step_heading(n)}\nAdd number {n}.\n" for n in (1, 2, 3))
A = f"{response_format.ANSWER}\n12\n"
EMPTY_A = f"{response_format.ANSWER}\n"


def validity(text: str, semantics: str) -> bool:
    parsed = strings.parse_completion(text.encode(), [b"12"], [], semantics=semantics)
    return parsed.is_complete and parsed.is_ordered


@pytest.mark.parametrize(
    ("parts", "released", "paper"),
    [
        ([D, R, S1, S2, A], True, True),
        ([D, R, T, S1, S2, A], True, True),
        ([R, D, S1, A], True, True),
        ([D, S1, S2, R, A], True, False),
        ([S1, S2, A, D, R], True, False),
        ([D, R, S1, S2, A, "and some more text\n"], True, True),
        ([D, R, S1, S2, EMPTY_A], True, False),
        ([R, S1, A], False, False),
        ([D, S1, A], False, False),
        ([D, R, A], False, False),
        ([D, R, S1], False, False),
        ([D, R, A, S1, S2], False, False),
        ([D, R, A, S1, S2, A], False, False),
        ([D, R, A, S1, S2, EMPTY_A], False, False),
        ([D, R, S1, S2, A, A], True, False),
        ([D, D, R, S1, A], True, False),
        ([D, R, R, S1, A], True, False),
        ([D, R, S2, S1, A], False, False),
        ([D, R, S1, S3, A], False, False),
        ([D, R, S2, S3, A], False, False),
        ([D, R, S1, S1, A], False, False),
        ([D, R.replace("Rationales", "Rationale"), S1, A], False, False),
        (["".join([D, R, S1, A]).lower()], False, False),
        ([D, R, S1.replace("### ", "Then ### "), A], True, False),
        ([response_format.DESCRIPTION + "\n", R, S1, A], True, False),
        ([D, R, response_format.step_heading(1) + "\n", A], True, False),
        ([D, R, response_format.step_heading(1) + "\n", S2, A], True, True),
        ([D, R, S1, f"### Step {'9' * 5000}:\nwild\n", A], False, False),
        ([], False, False),
    ],
)
def test_validity(parts, released, paper):
    text = "".join(parts)
    assert validity(text, "released") == released
    assert validity(text, "paper") == paper


@pytest.mark.parametrize("semantics", strings.SEMANTICS)
def test_math_verify_gets_the_gold_answer_first(semantics):
    completion = f"{S1}{response_format.ANSWER}\n5<x\n".encode()
    answer = strings.parse_completion(completion, [b"x>5"], [], semantics=semantics).answer
    assert answer.text == "5<x"
    assert answer.comparison.is_correct is None
    assert list(answer.comparison.questions()) == [("$x>5$", "$5<x$")]


@pytest.mark.parametrize("num_parts", [4, 5])
def test_validity_of_every_order(num_parts):
    """The rule on permutations of letters, against the validity of the text that they encode."""
    text_of = {"D": D, "R": R, "1": S1, "2": S2, "A": A}
    for letters in itertools.permutations(text_of, num_parts):
        order = "".join(letters)
        steps = [letter for letter in order if letter in "12"]
        has_all = set("DR1A") <= set(order)
        is_released = has_all and steps == sorted(steps) and order.index("A") > order.index(steps[-1])
        is_paper = is_released and max(order.index("D"), order.index("R")) < order.index("1")
        text = "".join(text_of[letter] for letter in order)
        assert (validity(text, "released"), validity(text, "paper")) == (is_released, is_paper), order


PATH = response_format.compose(
    "The Sum of 3 and 4, with café.", "Divide.", [r"We get $\frac{12}{2} = 6$.", "Then 6 + 1=7, a prime"], "7 apples"
)


@pytest.mark.parametrize(
    ("group", "paper", "released"),
    [
        ([r"\frac{12}{2}=6", "12/2 = 6"], [r"\frac{12}{2} = 6"], []),
        ([r"\frac{12}{2} = 6"], [r"\frac{12}{2} = 6"], [r"\frac{12}{2} = 6"]),
        ("6+1 = 7", ["6 + 1=7"], []),
        ("THEN", ["Then"], ["Then"]),
        ("prim", [], ["prim"]),
        ("the sum", ["The Sum"], []),  # only in the description
        ("café", ["café"], []),
        ("apples", [], []),  # only in the answer
        (["zebra", "Sum", "The Sum of 3"], ["The Sum of 3"], []),
        ("6", ["6", "6"], ["6", "6"]),
        ([], [], []),
        ("", [], []),
    ],
)
def test_key_step_spans(group, paper, released):
    for semantics, wanted in (("paper", paper), ("released", released)):
        spans = rewards.key_step_spans(PATH, [group], semantics=semantics)[0]
        assert [PATH[start:end] for start, end in spans] == wanted


def test_released_bodies_are_joined_by_a_space():
    text = "### Step 1:\n  one\n### Step 2:   two\n\n### Other\nthree"
    assert rewards.key_step_spans(text, ["one two", "three"], semantics="released") == [[(14, 35)], []]
