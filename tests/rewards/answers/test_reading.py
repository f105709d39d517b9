r"""What is read as the answer of a completion."""

import time

import pytest

from r1vl_jax import rewards
from r1vl_jax.rewards.answers import reading
from r1vl_jax.rewards.score import _say_that_elements_have_no_validity

HEADING = "### The final answer is:"


@pytest.mark.parametrize(
    ("body", "block"),
    [
        ("42", "42"),
        ("\n\n  42 \n\nDone.", "42"),
        ("\\[\n\\boxed{42}\n\\]", "\\[\n\\boxed{42}\n\\]"),
        ("\\[\n42\n\\] and so on\nmore", "\\[\n42\n\\] and so on"),
        ("$$\n42\n$$\nmore", "$$\n42\n$$"),
        ("$$42$$", "$$42$$"),
        ("```\n42\n```", "42"),
        ("```latex\n\\boxed{42}\n```\nmore", "\\boxed{42}"),
        ("~~~\n42\n~~~", "42"),
        ("\\begin{align*}\nx &= 42\n\\end{align*}\nmore", "\\begin{align*}\nx &= 42\n\\end{align*}"),
        ("\\[\n42", "\\[\n42"),
        ("```\n42", "42"),
        ("```\n```", ""),
        ("\\boxed{\n42\n}\nmore", "\\boxed{\n42\n}"),
        ("**Answer:**\n42\nmore", "42"),
        ("$5\n$6", "$5"),
        ("", ""),
    ],
)
def test_first_block(body, block):
    assert reading.first_block(body.encode()) == block.encode()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("12", "12"),
        (" two\nlines ", "two\nlines"),
        (f"### Step 1:\n7\n\n{HEADING}\n\n  12 \n\nDone.", "12"),
        (f"{HEADING} 12", "12"),
        (f"{HEADING}\n12\n{HEADING}\n13", "12"),
        (f"{HEADING}\n", ""),
        ("<think>7</think><answer>14</answer>", "14"),
        ("<answer> 14 \n</answer>", "14"),
        ("<answer>13</answer> no, <answer>14</answer>", "14"),
        ("<answer>14", "14"),
        (f"<answer>14</answer>\n{HEADING}\n15", "15"),
        (r"so \boxed{13} and \boxed{\frac{1}{2}}.", r"\boxed{\frac{1}{2}}"),
        (r"so \boxed{13} and \boxed{", r"\boxed{13}"),
        (r"so \boxed{13", r"so \boxed{13"),
    ],
)
def test_anywhere(text, answer):
    assert reading.anywhere(text.encode()) == answer.encode()


@pytest.mark.parametrize("answer", ["\\[\n\\boxed{42}\n\\]", "$$\n42\n$$", "```\n42\n```", "\n**42**", "\\(42\\)"])
@pytest.mark.parametrize("semantics", ["paper", "released"])
def test_a_block_below_the_heading_is_the_answer(answer, semantics):
    record = {"answer": "42", "key_steps": []}
    assert rewards.score([f"{HEADING}\n{answer}"], [record], semantics=semantics).answer_correct[0]
    assert not rewards.score([f"{HEADING}\n43\n{answer}"], [record], semantics=semantics).answer_correct[0]


def test_a_text_of_elements_has_its_answer_and_its_path_but_no_validity(caplog):
    _say_that_elements_have_no_validity.cache_clear()
    record = {"answer": "<answer>14</answer>", "key_steps": [["6 + 8 = 14"], ["before"]]}
    text = "before <think>6+8=14, so é</think> <answer>\\boxed{14}</answer>"
    for backend in ("strings", "kernels"):
        reward = rewards.score([text, text.replace("{14}", "{15}")], [record] * 2, backend=backend)
        assert reward.answer_correct.tolist() == [True, False]
        assert reward.key_step_match.tolist() == [0.5, 0.5]
        assert reward.step_validity.tolist() == [0, 0]
    assert caplog.text.count("StepRVR") == 1
    ((start, end),) = rewards.key_step_spans(text, record["key_steps"], semantics="paper")[0]
    assert text[start:end] == "6+8=14"


@pytest.mark.parametrize(
    "text", [rb"\boxed{" * 20_000, b"<think>" * 20_000 + b"<answer>12</answer>", b"<answer>" * 20_000]
)
@pytest.mark.parametrize("semantics", ["paper", "released"])
def test_reading_takes_one_pass(text, semantics):
    start = time.process_time()
    rewards.score([text], [{"answer": "12", "key_steps": [["x"]]}], semantics=semantics)
    assert time.process_time() - start < 0.5
