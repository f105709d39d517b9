"""How the question of a benchmark is asked, as the original evaluation words it; an instruction may stand before."""

import string

from r1vl_jax.evaluation.benchmarks.outcome import Row
from r1vl_jax.evaluation.benchmarks.tasks import Benchmark
from r1vl_jax.evaluation.benchmarks.values import texts_of

_SELECT = "Please select the correct answer from the choices above."
_YES_NO = {"A": "Yes", "B": "No"}


def question_text(benchmark: Benchmark, row: Row) -> str:
    """The question of a row, with its choices where the benchmark asks with them.

    VLMEvalKit's files have the choices of MathVista and MathVision in `question`. Those of the hub have a `query` with
    them, which is then asked, or in MathVision the choices alone, which are put below the question.
    """
    question = row["question"].strip()
    if benchmark.prompt == "yes_no":
        return f"{question}\n{_lines(_YES_NO)}"
    if benchmark.prompt == "query":
        return _with_choices(row.get("query", "").strip() or question or row.get("query_cot", "").strip(), row)
    if benchmark.prompt != "options":
        return question
    options = {letter: row[letter].strip() for letter in string.ascii_uppercase if row.get(letter, "").strip()}
    return f"Question: {question}\nChoices:\n{_lines(options)}\n{_SELECT}"


def _with_choices(question: str, row: Row) -> str:
    """The question, and below it the choices, unless they stand in it or are letters in the picture."""
    choices = texts_of(row.get("choices", ""))
    if all(
        choice == letter or choice in question for letter, choice in zip(string.ascii_uppercase, choices, strict=False)
    ):
        return question
    lines = (f"({letter}) {choice}" for letter, choice in zip(string.ascii_uppercase, choices, strict=False))
    return "\n".join((question, "Choices:", *lines))


def _lines(options: dict[str, str]) -> str:
    return "\n".join(f"{letter}: {text}" for letter, text in options.items())
