"""How the question of a benchmark is asked, as the original evaluation words it; an instruction may stand before."""

import string

from r1vl_jax.evaluation.benchmarks.outcome import Row
from r1vl_jax.evaluation.benchmarks.tasks import Benchmark

_SELECT = "Please select the correct answer from the choices above."
_YES_NO = {"A": "Yes", "B": "No"}


def question_text(benchmark: Benchmark, row: Row) -> str:
    """The question of a row, with its choices where the benchmark asks with them."""
    question = row["question"].strip()
    if benchmark.prompt == "yes_no":
        return f"{question}\n{_lines(_YES_NO)}"
    if benchmark.prompt != "options":
        return question
    options = {letter: row[letter].strip() for letter in string.ascii_uppercase if row.get(letter, "").strip()}
    return f"Question: {question}\nChoices:\n{_lines(options)}\n{_SELECT}"


def _lines(options: dict[str, str]) -> str:
    return "\n".join(f"{letter}: {text}" for letter, text in options.items())
