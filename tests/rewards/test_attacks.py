"""Reward hacking: completions that score without reasoning. The table of docs/rewards.md is computed here."""

import re
from pathlib import Path

import numpy as np
import pytest

from r1vl_jax import response_format, rewards
from r1vl_jax.rewards.kernels.headings import MAX_HEADINGS

RECORD = {"answer": "53", "key_steps": [["8*6=48", "8 times 6 is 48"], ["48+5=53", "48 plus 5 is 53"]]}
CHOICE = {"answer": "B", "key_steps": []}


def path(*steps: str, answer: str, description: str = "8*6+5", rationale: str = "Multiply first.") -> str:
    return response_format.compose(description, rationale, list(steps), answer)


ATTACKS = {
    "correct steps and answer": (path("8*6=48", "48+5=53", answer="53"), RECORD),
    "last step and answer wrong": (path("8*6=48", "48+5=54", answer="54"), RECORD),
    "only the answer, under its heading": ("### The final answer is:\n53", RECORD),
    "only the answer": ("53", RECORD),
    "all spellings pasted into one step, answer wrong": (
        path("8*6=48 8 times 6 is 48 48+5=53 48 plus 5 is 53", answer="1"),
        RECORD,
    ),
    "key steps pasted into the description, answer wrong": (
        path("x", answer="1", description="8*6=48 48+5=53"),
        RECORD,
    ),
    "one key step 50 times, answer wrong": (path("8*6=48 " * 50, answer="1"), RECORD),
    "empty steps 1 to 5, answer wrong": (
        "### Image Description:\nA\n\n### Rationales:\nB\n\n"
        + "".join(f"### Step {number}:\n\n" for number in range(1, 6))
        + "### The final answer is:\n1",
        RECORD,
    ),
    "headings without bodies": (
        "### Image Description:\n### Rationales:\n### Step 1:\n### The final answer is:\n",
        RECORD,
    ),
    "a dot under each heading": (path(".", answer=".", description=".", rationale="."), RECORD),
    "all options listed": (path("Look.", answer="A, B, C or D"), CHOICE),
    "several answers joined by `or`": (path("Look.", answer="53 or 54 or 55"), RECORD),
    "several answers joined by commas": (path("Look.", answer="51, 52, 53"), RECORD),
    "several boxed answers": (path("Look.", answer=r"$\boxed{54}$ $\boxed{53}$"), RECORD),
    "several answers on separate lines": (path("Look.", answer="51\n52\n53"), RECORD),
    "a second answer section": (path("Look.", answer="54") + "\n\n### The final answer is:\n53", RECORD),
    "correct answer in a step, wrong final answer": (path("Look. 53", answer="54"), RECORD),
}
# Columns of the table: semantics, and whether math-verify decides.
COLUMNS = (("paper", True), ("released", True), ("paper", False), ("released", False))


@pytest.fixture(scope="module")
def judge():
    with rewards.Judge(timeout_s=30.0) as judge:
        yield judge


def compute_table(judge: rewards.Judge) -> dict[str, list[str]]:
    texts, records = zip(*ATTACKS.values(), strict=True)
    columns = [
        rewards.score(texts, records, semantics=semantics, judge=judge if uses_judge else None).total
        for semantics, uses_judge in COLUMNS
    ]
    return {name: [f"{total:.2f}" for total in row] for name, *row in zip(ATTACKS, *columns, strict=True)}


def test_the_table_of_the_docs(judge):
    page = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    table = {cells[0]: cells[1:] for cells in rows if cells[0] in ATTACKS}
    assert table == compute_table(judge)


def test_correct_steps_and_answer_score_highest(judge):
    table = {name: [float(total) for total in totals] for name, totals in compute_table(judge).items()}
    correct = table.pop("correct steps and answer")
    assert all(total < best for totals in table.values() for total, best in zip(totals, correct, strict=True))


def test_repetition_adds_no_reward():
    """Repeated key steps, spellings and headings count once."""
    once = path("8*6=48 and 8 times 6 is 48", answer="1")
    often = path(*["8*6=48 and 8 times 6 is 48 " * 20] * 20, answer="1")
    for semantics in ("paper", "released"):
        reward = rewards.score([once, often], [RECORD] * 2, semantics=semantics)
        assert reward.total[0] == reward.total[1]


def test_more_headings_than_the_kernels_read_add_no_reward():
    """A completion beyond the kernels' bounds is undecided there, and scored on strings."""
    flood = path(*["8*6=48"] * (MAX_HEADINGS + 1), answer="53")
    by_kernels, by_strings = (rewards.score([flood], [RECORD], backend=backend) for backend in ("kernels", "strings"))
    np.testing.assert_allclose(by_kernels.total, by_strings.total, atol=1e-6)


def test_names_fit_a_markdown_table():
    assert all(re.fullmatch(r"[\w ,`]+", name) for name in ATTACKS)
