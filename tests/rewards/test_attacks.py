"""What the rewards can be talked into: the README's table is computed here."""

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
    "an honest path, right": (path("8*6=48", "48+5=53", answer="53"), RECORD),
    "an honest path, its last step wrong": (path("8*6=48", "48+5=54", answer="54"), RECORD),
    "the answer alone, under its heading": ("### The final answer is:\n53", RECORD),
    "the answer alone": ("53", RECORD),
    "all spellings pasted into one step, answer wrong": (
        path("8*6=48 8 times 6 is 48 48+5=53 48 plus 5 is 53", answer="1"),
        RECORD,
    ),
    "the same in the description": (path("x", answer="1", description="8*6=48 48+5=53"), RECORD),
    "one key step fifty times, answer wrong": (path("8*6=48 " * 50, answer="1"), RECORD),
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
    "every option named": (path("Look.", answer="A, B, C or D"), CHOICE),
    "several answers with `or`": (path("Look.", answer="53 or 54 or 55"), RECORD),
    "several answers with commas": (path("Look.", answer="51, 52, 53"), RECORD),
    "several answers, each boxed": (path("Look.", answer=r"$\boxed{54}$ $\boxed{53}$"), RECORD),
    "several answers on lines": (path("Look.", answer="51\n52\n53"), RECORD),
    "a second answer section": (path("Look.", answer="54") + "\n\n### The final answer is:\n53", RECORD),
    "the answer in a step, another as the answer": (path("Look. 53", answer="54"), RECORD),
}
# Columns of the table: semantics, and whether math-verify is asked.
COLUMNS = (("paper", True), ("released", True), ("paper", False), ("released", False))


@pytest.fixture(scope="module")
def judge():
    with rewards.Judge(timeout_s=30.0) as judge:
        yield judge


def rewards_of(judge: rewards.Judge) -> dict[str, list[str]]:
    texts, records = zip(*ATTACKS.values(), strict=True)
    columns = [
        rewards.score(texts, records, semantics=semantics, judge=judge if is_judged else None).total
        for semantics, is_judged in COLUMNS
    ]
    return {name: [f"{total:.2f}" for total in row] for name, *row in zip(ATTACKS, *columns, strict=True)}


def test_the_table_of_the_readme(judge):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in readme.splitlines() if line[:1] == "|"]
    table = {cells[0]: cells[1:] for cells in rows if cells[0] in ATTACKS}
    assert table == rewards_of(judge)


def test_nothing_earns_more_than_an_honest_path_that_is_right(judge):
    of = {name: [float(total) for total in totals] for name, totals in rewards_of(judge).items()}
    honest = of.pop("an honest path, right")
    assert all(total < best for totals in of.values() for total, best in zip(totals, honest, strict=True))


def test_repetition_pays_nothing():
    """However often key steps, spellings and headings stand there."""
    once = path("8*6=48 and 8 times 6 is 48", answer="1")
    often = path(*["8*6=48 and 8 times 6 is 48 " * 20] * 20, answer="1")
    for semantics in ("paper", "released"):
        earned = rewards.score([once, often], [RECORD] * 2, semantics=semantics)
        assert earned.total[0] == earned.total[1]


def test_more_headings_than_the_kernels_read_earn_nothing_extra():
    """A completion made to leave the kernels' bounds is undecided there, and the reference gives what it is worth."""
    flood = path(*["8*6=48"] * (MAX_HEADINGS + 1), answer="53")
    by_kernels, by_reference = (
        rewards.score([flood], [RECORD], backend=backend) for backend in ("kernels", "reference")
    )
    np.testing.assert_allclose(by_kernels.total, by_reference.total, atol=1e-6)


def test_no_attack_is_forgotten_in_the_names():
    assert all(re.fullmatch(r"[\w ,`]+", name) for name in ATTACKS), "names stand in a table of Markdown"
